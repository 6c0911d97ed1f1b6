"""What is typed into the form of a key: texts on the way in and out, a grant or a patch once they make sense.

Knows the fields of the form; knows no store and no page.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any, TypeVar, get_args

from pydantic import ValidationError
from sdb_client.transforms import BLOCKS

from app.console.access import Form
from app.errors import InvalidRequest
from keys.image_keys import ImageKeyGrant, PixelTransform
from keys.records import ANY_MODEL, DEFAULT_MARK, KeyGrant, KeyPatch, KeyRecord, RateLimit

RATE = re.compile(r"(?P<name>[^\s:]+)\s*:?\s+(?P<limit>[\d,]+)\s+(?:in|per)?\s*(?P<window_s>\d+)\s*s?", re.ASCII)
IMAGE_KEYS = {"sealed": ImageKeyGrant(scheme="sealed")} | {
    f"pixel:{transform}:{block}": ImageKeyGrant.model_validate(
        {"scheme": "pixel", "transform": transform, "block": block}
    )
    for transform in get_args(PixelTransform)
    for block in BLOCKS
}
LONGEST_LINE = 100
STRENGTH = re.compile(r"\d{1,3}(\.\d{0,6})?|\.\d{1,6}", re.ASCII)
Document = dict[str, Any]
Model = TypeVar("Model", KeyGrant, KeyPatch)


class BadDraft(InvalidRequest):
    """Some fields make no sense; `problems` says of each of them why."""

    def __init__(self, problems: dict[str, str]) -> None:
        super().__init__("; ".join(f"{name}: {problem}" for name, problem in problems.items()))
        self.problems = problems


@dataclass(frozen=True)
class Draft:
    """The fields as texts, just as they were typed or as a key has them."""

    name: str = ""
    scopes: tuple[str, ...] = ("predict",)
    models: str = ANY_MODEL
    expires_at: str = ""
    limit: str = ""
    refill: str = "none"
    rate_limits: str = ""
    metadata: str = ""
    mark: str = f"{DEFAULT_MARK:g}"
    image_key: str = ""

    @classmethod
    def of(cls, record: KeyRecord) -> "Draft":
        """What the form shows of a key before anything is typed."""
        return cls(
            name=record.name,
            scopes=tuple(sorted(record.scopes)),
            models=" ".join(record.models),
            expires_at=_expiry_text(record.expires_at),
            limit="" if record.budget.limit is None else str(record.budget.limit),
            refill=record.budget.refill,
            rate_limits="\n".join(_rate_text(rate) for rate in record.rate_limits),
            metadata="\n".join(f"{name}: {value}" for name, value in record.metadata.items()),
            mark=f"{record.mark:g}",
        )

    @classmethod
    def read(cls, form: Form) -> "Draft":
        """What was sent."""
        names = (field.name for field in fields(cls) if field.name != "scopes")
        texts = {name: form.text(name).replace("\r\n", "\n") for name in names if name in form.fields}
        return cls(scopes=tuple(sorted({"predict", *form.texts("scopes")})), **texts)

    def grant(self) -> KeyGrant:
        """A new key's grant.

        Raises:
            BadDraft: some fields make no sense.
        """
        document = self._document(READERS)
        if self.image_key:
            document["image_key"] = image_key_grant(self.image_key)
        return _model(KeyGrant, document)

    def patch(self, record: KeyRecord) -> KeyPatch:
        """What the draft changes of `record`: a text that was left as it was changes nothing, whatever it holds.

        Raises:
            BadDraft: some fields make no sense.
        """
        shown, offered = Draft.of(record), FOR_ADMINS if record.kind == "admin" else READERS
        return _model(KeyPatch, self._document(name for name in offered if self._text(name) != shown._text(name)))

    def _text(self, name: str) -> tuple[object, ...]:
        return tuple(getattr(self, part) for part in PARTS.get(name, (name,)))

    def _document(self, names: Iterable[str]) -> Document:
        document, problems = {}, {}
        for name in names:
            try:
                document[name] = READERS[name](self)
            except ValueError as error:
                problems[PARTS.get(name, (name,))[0]] = str(error)
        if problems:
            raise BadDraft(problems)
        return document


def image_key_grant(text: str) -> ImageKeyGrant:
    """The grant that one of `IMAGE_KEYS` stands for.

    Raises:
        BadDraft: it is none of them.
    """
    if text not in IMAGE_KEYS:
        raise BadDraft({"image_key": "choose one of the list"})
    return IMAGE_KEYS[text]


def _model(kind: type[Model], document: Document) -> Model:
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        raise BadDraft(_problems(error.errors())) from None


def _problems(errors: Iterable[Any]) -> dict[str, str]:
    """The first problem of each field of the form; one of the whole grant is a problem of the image key."""
    problems: dict[str, str] = {}
    for error in errors:
        place = [str(part) for part in error["loc"]]
        name = place[0] if place else "image_key"
        name = (place[1] if len(place) > 1 else "limit") if name == "budget" else name
        problems.setdefault(name, str(error["msg"]).removeprefix("Value error, "))
    return problems


def _expiry_text(expires_at: datetime | None) -> str:
    """The shortest text of a time, as browsers send it."""
    if expires_at is None:
        return ""
    time = expires_at.astimezone(UTC)
    return f"{time:%Y-%m-%dT%H:%M:%S}" if time.second else f"{time:%Y-%m-%dT%H:%M}"


def _expiry(text: str) -> datetime | None:
    if not text:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("a date and a time, like 2027-01-31T12:00") from None
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time


def _limit(text: str) -> int | None:
    digits = text.replace(",", "").replace(" ", "")
    if digits and not (digits.isascii() and digits.isdecimal() and len(digits) <= 20):
        raise ValueError("a whole number, or nothing for an unlimited budget")
    return int(digits) if digits else None


def _rates(text: str) -> Sequence[Document]:
    return [_rate(line.strip()) for line in text.splitlines() if line.strip()]


def _rate(line: str) -> Document:
    match = RATE.fullmatch(line) if len(line) < LONGEST_LINE else None
    if match is None:
        raise ValueError(f"{line[:60]!r} does not read like “per-minute: 600 in 60 s”")
    limit, window_s = match["limit"].replace(",", "") or "0", match["window_s"]
    return {"name": match["name"], "limit": int(limit), "window_s": int(window_s)}


def _rate_text(rate: RateLimit) -> str:
    return f"{rate.name}: {rate.limit} in {rate.window_s} s"


def _metadata(text: str) -> dict[str, str]:
    pairs = [line.partition(":") for line in text.splitlines() if line.strip()]
    if not all(colon and name.strip() for name, colon, _ in pairs):
        raise ValueError("one “name: value” on each line")
    names = [name.strip() for name, _, _ in pairs]
    if len(set(names)) < len(names):
        raise ValueError("two lines have one name")
    return {name.strip(): value.strip() for name, _, value in pairs}


def _strength(text: str) -> float:
    if not STRENGTH.fullmatch(text):
        raise ValueError("a number from 0 to 1, like 0.5")
    return float(text)


# Each field of a grant, and what it is in a draft; the form of an admin's key has three of them.
READERS: dict[str, Callable[[Draft], object]] = {
    "name": lambda draft: draft.name,
    "scopes": lambda draft: draft.scopes,
    "models": lambda draft: draft.models.split(),
    "expires_at": lambda draft: _expiry(draft.expires_at),
    "budget": lambda draft: {"limit": _limit(draft.limit), "refill": draft.refill},
    "rate_limits": lambda draft: _rates(draft.rate_limits),
    "metadata": lambda draft: _metadata(draft.metadata),
    "mark": lambda draft: _strength(draft.mark),
}
PARTS = {"budget": ("limit", "refill")}
FOR_ADMINS = ("name", "expires_at", "metadata")
