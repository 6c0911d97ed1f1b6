"""What admins type for rights, budgets and limits, as fields of the grants in keys/records.py; knows no store.

Each text is one short form, the same for every command: `1000`, `burst:60/1m`, `pixel:shf:4`, `team=vision`.
"""

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TypeVar

from app.errors import InvalidRequest

Read = TypeVar("Read")
Fields = dict[str, object]
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
RATE_LIMIT = re.compile(r"(?P<name>[^:]+):(?P<limit>\d+)/(?P<count>\d*)(?P<unit>[smhd])", re.ASCII)
NONE, NEVER, UNLIMITED = "none", "never", "unlimited"


def key_fields(
    *,
    name: str | None,
    scope: Sequence[str] | None,
    model: Sequence[str] | None,
    expires_at: str | None,
    rate_limit: Sequence[str] | None,
    metadata: Sequence[str] | None,
    mark: float | None,
) -> Fields:
    """The fields of a grant or a patch, from the options of these names that were typed.

    Raises:
        InvalidRequest: one of them is not in its short form.
    """
    fields: Fields = {
        "name": name,
        "scopes": scope,
        "models": model,
        "rate_limits": _each(_rate_limit, rate_limit),
        "metadata": None if metadata is None else dict(_each(_entry, metadata) or ()),
        "mark": mark,
    }
    typed = {field: value for field, value in fields.items() if value is not None}
    return typed if expires_at is None else {**typed, "expires_at": _expiry(expires_at)}


def answers(text: str) -> int | None:
    """A budget's limit; `unlimited` is None.

    Raises:
        InvalidRequest: neither that nor a number.
    """
    if text == UNLIMITED:
        return None
    if not re.fullmatch(r"\d{1,20}", text, re.ASCII):
        raise InvalidRequest(f"a budget is a number of answers or {UNLIMITED!r}, not {text!r}")
    return int(text)


def image_key(text: str) -> Fields:
    """The image key that `sealed` or `pixel:TRANSFORM:BLOCK` asks for."""
    scheme, *parts = text.split(":")
    values = [int(part) if part.isdecimal() else part for part in parts]
    return {"scheme": scheme, **dict(zip(("transform", "block", "more"), values, strict=False))}


def _each(read: Callable[[str], Read], texts: Sequence[str] | None) -> list[Read] | None:
    """What the texts say one by one; `none` alone is an empty list."""
    if texts is None:
        return None
    return [] if list(texts) == [NONE] else [read(text) for text in texts]


def _rate_limit(text: str) -> Fields:
    found = RATE_LIMIT.fullmatch(text)
    if found is None:
        raise InvalidRequest(f"a rate limit is like burst:60/1m (s, m, h, d), not {text!r}")
    window_s = int(found["count"] or 1) * UNITS[found["unit"]]
    return {"name": found["name"], "limit": int(found["limit"]), "window_s": window_s}


def _expiry(text: str) -> datetime | None:
    if text == NEVER:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidRequest(f"an expiry is a time like 2027-01-31T12:00:00 or {NEVER!r}, not {text!r}") from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


def _entry(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise InvalidRequest(f"metadata is NAME=VALUE, not {text!r}")
    return name, value
