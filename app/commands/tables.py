"""Keys, usage and the audit log as people read them in a terminal; the JSON of the same is in key_schemas.py."""

from collections.abc import Sequence
from datetime import datetime, timedelta

import orjson

from app.key_schemas import Key, NewKey, RotatedKey
from keys.audit import AuditEntry
from keys.image_keys import ImageKey
from keys.records import Budget, LedgerLine, RateLimit, UsageBucket

BAR = 5  # characters of a full bar
DETAIL = 60  # characters of an audit entry's detail; all of it is in the JSON
SPANS = (("year", 365 * 86400), ("month", 30 * 86400), ("day", 86400), ("hour", 3600), ("min", 60))
SECOND, EXACT_SPANS = ("s", 1), SPANS[2:]  # years and months have no exact length
Row = dict[str, object]


def line(key: Key, now: datetime) -> Row:
    """A key in one line."""
    return {
        "id": key.id,
        "name": key.name,
        "rights": _rights(key),
        "state": _state(key, now),
        "left": _left(key.budget) if key.kind == "client" else None,
        "expires": "never" if key.expires_at is None else ago(key.expires_at, now),
        "last used": "never" if key.last_used_at is None else ago(key.last_used_at, now),
    }


def card(key: Key, now: datetime) -> Row:
    """A key with all that is known of it, its secrets first when it has just been given some."""
    secrets: Row = {"API key": key.api_key} if isinstance(key, RotatedKey) else {}
    if isinstance(key, NewKey) and key.image_key is not None:
        secrets["image key's secret"] = key.image_key.secret
    return {
        **secrets,
        **line(key, now),
        "expires": _moment(key.expires_at, now),
        "last used": _moment(key.last_used_at, now),
        "created": _moment(key.created_at, now),
        "models": ", ".join(key.models) if key.kind == "client" else None,
        "refill": _refill(key.budget, now) if key.kind == "client" else None,
        "rate limits": ", ".join(map(_rate_limit, key.rate_limits)) or None,
        "mark": _mark(key.mark) if "distill" in key.scopes else None,
        "metadata": ", ".join(f"{name}={value}" for name, value in key.metadata.items()) or None,
        "image key": None if key.image_key is None else _image_key(key.image_key),
    }


def usage_lines(counts: Sequence[UsageBucket]) -> list[Row]:
    """One line per bucket, model and outcome, with a bar against the fullest."""
    most = max((count.images for count in counts), default=0)
    return [
        {
            "from": f"{count.start:%Y-%m-%d %H:%M}",
            "model": count.model,
            "outcome": count.outcome,
            "images": count.images,
            "": _bar(count.images, most),
        }
        for count in counts
    ]


def ledger_line(line: LedgerLine) -> Row:
    """A change of a key's budget in one line."""
    return {
        "at": f"{line.at:%Y-%m-%d %H:%M:%S}",
        "kind": line.kind,
        "count": f"{line.count:+}",
        "used": line.used,
        "granted": line.granted,
    }


def audit_line(entry: AuditEntry) -> Row:
    """An entry of the audit log in one line."""
    return {
        "seq": entry.seq,
        "at": f"{entry.at:%Y-%m-%d %H:%M:%S}",
        "action": entry.action,
        "actor": entry.actor,
        "target": entry.target,
        "detail": _short(orjson.dumps(entry.detail).decode()) if entry.detail else None,
    }


def ago(moment: datetime, now: datetime) -> str:
    """How far `moment` is from `now`, in the largest unit that it fills: `in 3 days`, `5 min ago`."""
    seconds = abs(moment - now) // timedelta(seconds=1)
    unit, length = next(((unit, length) for unit, length in SPANS if seconds >= length), SECOND)
    span = _counted(seconds // length, unit)
    return f"in {span}" if moment > now else f"{span} ago"


def _counted(count: int, unit: str) -> str:
    return f"{count} {unit}{'s' if count > 1 and unit not in {'min', 's'} else ''}"


def _rights(key: Key) -> str:
    return " ".join(key.scopes) or key.kind


def _state(key: Key, now: datetime) -> str:
    expired = key.state == "active" and key.expires_at is not None and key.expires_at <= now
    return "expired" if expired else key.state


def _left(budget: Budget) -> str:
    if budget.limit is None or budget.remaining is None:
        return "unlimited"
    return f"{_bar(budget.remaining, max(budget.limit, budget.remaining))} {budget.remaining} of {budget.limit}"


def _bar(part: int, whole: int) -> str:
    """A bar of `BAR` characters; what is left of anything shows as one at least."""
    full = max(round(BAR * part / whole), part > 0) if whole else 0
    return "█" * full + "░" * (BAR - full)


def _short(text: str) -> str:
    return text if len(text) <= DETAIL else f"{text[: DETAIL - 1]}…"


def _moment(moment: datetime | None, now: datetime) -> str:
    return "never" if moment is None else f"{moment:%Y-%m-%d %H:%M:%S} UTC ({ago(moment, now)})"


def _refill(budget: Budget, now: datetime) -> str:
    once = f", {budget.granted} granted once" if budget.granted else ""
    return (
        f"{budget.refill}{once}"
        if budget.resets_at is None
        else f"{budget.refill}, next {ago(budget.resets_at, now)}{once}"
    )


def _rate_limit(rate: RateLimit) -> str:
    unit, length = next((unit, length) for unit, length in (*EXACT_SPANS, SECOND) if rate.window_s % length == 0)
    return f"{rate.name}: {rate.limit} per {_counted(rate.window_s // length, unit)}"


def _mark(strength: float) -> str:
    """The strength of a key's mark."""
    return f"{strength:g}" if strength else "off"


def _image_key(image_key: ImageKey) -> str:
    how = [image_key.scheme, image_key.transform, image_key.block]
    return f"{image_key.kid} ({':'.join(str(part) for part in how if part is not None)})"
