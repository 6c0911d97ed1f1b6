"""What the server says of keys. Plain data; knows no request.

Secrets are in the answers that create them and nowhere else; no repr shows them.
"""

import base64
from dataclasses import dataclass, field
from datetime import datetime
from typing import Self

from sdb_client.transport.request import as_json, read


class HandedOver:
    """An answer with secrets that goes from an admin to its holder as a file."""

    @classmethod
    def from_json(cls, document: bytes | str) -> Self:
        """From JSON as the server's answer has it, or `to_json` wrote it.

        Raises:
            UnexpectedAnswer: something else, or without its secrets.
        """
        return read(document, cls)

    def to_json(self) -> bytes:
        """JSON, with the secrets: keep it where nobody else reads it."""
        return as_json(self)


@dataclass(frozen=True)
class Budget:
    """What is left of a key's budget in images; None is unlimited. `remaining` includes `granted`, the top-ups left."""

    limit: int | None
    remaining: int | None
    granted: int = 0
    refill: str = "none"
    resets_at: datetime | None = None


@dataclass(frozen=True)
class RateLimit:
    """In any `window_s` seconds at most `limit` images are answered."""

    name: str
    limit: int
    window_s: int


@dataclass(frozen=True)
class ImageKey:
    """An image key without its secret. `transform` and `block` are those of the scheme "pixel"."""

    kid: str
    scheme: str
    transform: str | None = None
    block: int | None = None
    created_at: datetime | None = None
    state: str = "active"
    ends_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class NewImageKey(ImageKey, HandedOver):
    """An image key with its secret (32 bytes in base64url): what `client.encrypt` needs."""

    secret: str = field(repr=False)

    @property
    def secret_bytes(self) -> bytes:
        """The secret as bytes [32]."""
        return base64.urlsafe_b64decode(self.secret + "=" * (-len(self.secret) % 4))


@dataclass(frozen=True)
class Key:
    """A key without its secrets: rights, state, and what is left of it.

    `kind` is "client" or "admin", `state` "active", "disabled" or "revoked"; `models` ("*",) is all of them. `etag`, if
    the server gave one, names what admins have made of the key, for a change that must not undo another one. `mark` is
    the strength, from 0 (off) to 1, of the mark on its soft labels by which a leak is traced.
    """

    id: str
    name: str
    kind: str
    scopes: tuple[str, ...]
    models: tuple[str, ...]
    state: str
    created_at: datetime
    expires_at: datetime | None
    budget: Budget
    rate_limits: tuple[RateLimit, ...]
    metadata: dict[str, str]
    last_used_at: datetime | None = None
    image_key: ImageKey | None = None
    mark: float | None = None
    etag: str | None = None


@dataclass(frozen=True, kw_only=True)
class RotatedKey(Key):
    """A key with its new API key."""

    api_key: str = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class NewKey(Key, HandedOver):
    """A key just made, with its API key and the secret of its image key."""

    api_key: str = field(repr=False)
    image_key: NewImageKey | None = None


@dataclass(frozen=True)
class ImageKeys:
    """All image keys of a key, newest first."""

    image_keys: tuple[ImageKey, ...]


@dataclass(frozen=True)
class UsageBucket:
    """So many images from `start` on, for one hour or day (UTC), model and outcome."""

    start: datetime
    model: str
    outcome: str
    images: int


@dataclass(frozen=True)
class Usage:
    """What a key was answered, oldest first."""

    bucket: str
    usage: tuple[UsageBucket, ...]


@dataclass(frozen=True)
class LedgerLine:
    """A change of a key's budget: `kind` is "charge", "release", "lapse", "refill", "top-up" or "limit".

    `count` is what it took (negative: gave back; of a top-up, gave), `used` of the limit and `granted` of the top-ups
    are what it left.
    """

    at: datetime
    kind: str
    count: int
    used: int
    granted: int


@dataclass(frozen=True)
class Ledger:
    """The last changes of a key's budget, oldest first."""

    ledger: tuple[LedgerLine, ...]


@dataclass(frozen=True)
class KeyPage:
    """A page of the list of keys."""

    keys: tuple[Key, ...]
    next: str | None
