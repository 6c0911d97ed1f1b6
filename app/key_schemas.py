"""The shapes of the admin plane, as REST and the command line show them: keys, their usage, the audit log.

Knows pydantic and the key service; knows neither HTTP nor a terminal.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field

from keys.audit import AuditEntry
from keys.image_keys import DEFAULT_OVERLAP_S, MAX_OVERLAP_S, ImageKey, ImageKeyGrant, IssuedImageKey, Overlap
from keys.material import to_text
from keys.records import (
    MAX_BUDGET,
    Bucket,
    Budget,
    IssuedKey,
    KeyGrant,
    KeyKind,
    KeyPatch,
    KeyRecord,
    KeyState,
    LedgerLine,
    RateLimit,
    UsageBucket,
)
from keys.service import KeyService


class CreateKey(KeyGrant):
    """What `POST /admin/v1/keys` takes."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"name": "partner", "scopes": ["predict", "distill"], "budget": {"limit": 1000}},
                {"name": "clinic", "scopes": ["decrypt"], "image_key": {"scheme": "sealed"}},
                {
                    "name": "trial",
                    "scopes": ["distill"],
                    "models": ["cifar10"],
                    "expires_at": "2099-12-31T00:00:00Z",
                    "budget": {"limit": 100, "refill": "daily"},
                    "rate_limits": [{"name": "burst", "limit": 60, "window_s": 60}],
                    "metadata": {"contract": "7/2026"},
                },
            ]
        },
    )


def _as_change(schema: dict[str, Any]) -> None:
    """What is left out of a change stays: a default would say otherwise."""
    for field in schema["properties"].values():
        field.pop("default", None)
    schema["examples"] = [
        {"budget": {"limit": 2000, "refill": "monthly"}, "expires_at": None},
        {"rate_limits": [{"name": "burst", "limit": 60, "window_s": 60}]},
        {"mark": 0},
    ]


class ChangeKey(KeyPatch):
    """What `PATCH /admin/v1/keys/{key_id}` takes: each field named is given anew, as a whole; the others stay."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=_as_change)


class Rotation(BaseModel):
    """What `POST /admin/v1/keys/{key_id}/rotate` takes."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra={"examples": [{"overlap_s": 3600}, {}]})

    overlap_s: Annotated[
        int, Field(ge=0, le=MAX_OVERLAP_S, description="seconds that the API key before is still accepted")
    ] = 0


class TopUp(BaseModel):
    """What `POST /admin/v1/keys/{key_id}/top-up` takes."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra={"examples": [{"answers": 500}]})

    answers: Annotated[int, Field(ge=1, le=MAX_BUDGET, description="given once, on top of the budget's limit")]


class CreateImageKey(ImageKeyGrant):
    """What `POST /admin/v1/keys/{key_id}/image-keys` takes."""

    overlap_s: Overlap = DEFAULT_OVERLAP_S


class Key(BaseModel):
    """A key without its secrets."""

    id: str
    name: str
    kind: KeyKind
    scopes: list[str]
    models: list[str]
    state: KeyState
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    budget: Budget
    rate_limits: list[RateLimit]
    metadata: dict[str, str]
    mark: float
    image_key: ImageKey | None


class RotatedKey(Key):
    """A key with a new API key: the only answer that holds it."""

    api_key: str


class NewImageKey(ImageKey):
    """An image key just made: the only answer that holds its secret."""

    secret: Annotated[str, Field(description="32 bytes in base64url")]

    @classmethod
    def of(cls, issued: IssuedImageKey) -> Self:
        """What is shown of an image key this once."""
        return cls(secret=to_text(issued.secret), **issued.record.model_dump())


class NewKey(RotatedKey):
    """A key just made: the only answer that holds its secrets."""

    image_key: NewImageKey | None

    @classmethod
    def of(cls, issued: IssuedKey) -> Self:
        """What is shown of a key this once."""
        image_key = None if issued.image_key is None else NewImageKey.of(issued.image_key)
        return cls(api_key=issued.api_key, image_key=image_key, **issued.record.model_dump())


class ImageKeys(BaseModel):
    """All image keys of a key, newest first."""

    image_keys: list[ImageKey]


class KeyPage(BaseModel):
    """Keys, newest first; `next` is the cursor of the following page."""

    keys: list[Key]
    next: str | None


class Usage(BaseModel):
    """What a key was answered, oldest first: hours of 14 days, or days of 400, in UTC."""

    bucket: Bucket
    usage: list[UsageBucket]


class Ledger(BaseModel):
    """The last changes of a key's budget, oldest first."""

    ledger: list[LedgerLine]


class AuditPage(BaseModel):
    """Entries of the audit log, newest first; `next` is the cursor of the following page."""

    entries: list[AuditEntry]
    next: str | None


async def shown(keys: KeyService, records: Sequence[KeyRecord]) -> list[Key]:
    """Keys as admins and holders see them, each with its newest active image key."""
    image_keys = await keys.image_keys.newest([record.id for record in records])
    return [
        Key(image_key=image_key, **record.model_dump()) for record, image_key in zip(records, image_keys, strict=True)
    ]


async def shown_rotated(keys: KeyService, issued: IssuedKey) -> RotatedKey:
    """A key as it is shown with its new API key, this once."""
    (key,) = await shown(keys, [issued.record])
    return RotatedKey(api_key=issued.api_key, **dict(key))
