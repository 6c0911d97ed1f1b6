"""Image keys in Redis (or Valkey), in the hash slot of the key that owns them; `KeyStore` holds one.

Knows the layout; secrets come in sealed, as text. Per key:

* `sdb:{ID}:image-keys` hash: kid → entry (JSON), in which `ends_at` (ms) is missing while the image key is active, and
  `secret` once it is retired
* `sdb:{ID}:seen:KID:IV`: a sealed image was opened; expires

What state an image key is in is a question of time, which the store's clock answers alone.
"""

import secrets
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, ValidationError
from redis.asyncio import Redis

from keys.connection import SCRIPTS, available
from keys.errors import ImageKeyRefused, UnknownKey
from keys.image_keys import ImageKey, ImageKeyState, ImageScheme, PixelTransform
from keys.records import instant

MOST_IN_USE, MOST_RETIRED = 20, 100
FRESH_S = 300  # how far the time in a sealed image may be from the store's clock
UNTIMED_LIFE_S = 24 * 3600  # how long one without a time is remembered
REFUSALS = {
    "revoked": "a revoked key gets no image key",
    "too many": f"the key has {MOST_IN_USE} image keys in use; retire one first",
}


class Entry(BaseModel):
    """An image key as it is stored; `number` counts those of its owner."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scheme: ImageScheme
    transform: PixelTransform | None = None
    block: int | None = None
    created_at: int
    secret: str | None = None
    number: int = 1
    ends_at: int | None = None

    def state(self, now: float) -> ImageKeyState:
        """The state at `now` (ms)."""
        if self.secret is None:
            return "retired"
        if self.ends_at is None:
            return "active"
        return "retiring" if now < self.ends_at else "retired"

    def record(self, kid: str, now: float) -> ImageKey:
        """What may be shown of it at `now` (ms)."""
        return ImageKey(
            kid=kid,
            scheme=self.scheme,
            transform=self.transform,
            block=self.block,
            created_at=instant(self.created_at),
            state=self.state(now),
            ends_at=None if self.ends_at is None else instant(self.ends_at / 1000),
        )

    def text(self) -> str:
        """The entry as the store keeps it."""
        return self.model_dump_json(exclude_none=True)


class ImageKeyStore:
    """Every method raises StoreUnavailable when the store does not answer."""

    def __init__(self, client: Redis) -> None:
        self._redis = client
        self._issue = client.register_script((SCRIPTS / "issue.lua").read_text())
        self._retire = client.register_script((SCRIPTS / "retire.lua").read_text())
        self._reseal = client.register_script((SCRIPTS / "reseal.lua").read_text())
        self._remember = client.register_script((SCRIPTS / "remember.lua").read_text())

    async def issue(self, key_id: str, kid: str, entry: Entry, overlap_s: float) -> None:
        """Add an image key; the active ones of its scheme end in `overlap_s` seconds.

        Raises:
            UnknownKey: no key has this id.
            ImageKeyRefused: the key is revoked, or has too many image keys; nothing has changed.
        """
        arguments: list[str | float] = [kid, entry.text(), int(1000 * overlap_s), MOST_IN_USE, MOST_RETIRED]
        async with available():
            verdict = await self._issue(keys=[f"sdb:{{{key_id}}}", image_keys(key_id)], args=arguments)
        if verdict == "unknown":
            raise UnknownKey(f"no key has the id {key_id!r}")
        if verdict != "issued":
            raise ImageKeyRefused(REFUSALS[verdict])

    async def entries(self, key_ids: Sequence[str]) -> tuple[list[dict[str, Entry]], float]:
        """The image keys of each of these keys, newest first, and the time of the store's clock (ms)."""
        async with available(), self._redis.pipeline(transaction=False) as pipeline:
            pipeline.time()
            for key_id in key_ids:
                pipeline.hgetall(image_keys(key_id))
            time, *hashes = await pipeline.execute()
        return [_newest_first(fields) for fields in hashes], _ms(time)

    async def entry(self, key_id: str, kid: str) -> tuple[Entry, float]:
        """One image key, and the time of the store's clock (ms).

        Raises:
            UnknownKey: the key has none of this id, or something else in its place.
        """
        async with available(), self._redis.pipeline(transaction=False) as pipeline:
            pipeline.time()
            pipeline.hget(image_keys(key_id), kid)
            time, text = await pipeline.execute()
        try:
            return Entry.model_validate_json(text or ""), _ms(time)
        except ValidationError:
            raise _unknown(kid) from None

    async def retire(self, key_id: str, kid: str, overlap_s: float) -> None:
        """Let an image key end in `overlap_s` seconds, unless it ends before.

        Raises:
            UnknownKey: the key has none of this id.
        """
        async with available():
            if not await self._retire(keys=[image_keys(key_id)], args=[kid, int(1000 * overlap_s)]):
                raise _unknown(kid)

    async def reseal(self, key_id: str, kid: str, old: str, new: str) -> bool:
        """Put `new` in the place of the sealed secret `old`; False if it is no longer there."""
        async with available():
            return bool(await self._reseal(keys=[image_keys(key_id)], args=[kid, old, new]))

    async def remember(self, key_id: str, kid: str, iv: bytes, issued_at: float | None) -> bool:
        """Whether a sealed image of this IV may be opened: it is fresh, and nobody asked before."""
        arguments: list[str | float] = [
            secrets.token_hex(12),
            "" if issued_at is None else issued_at,
            FRESH_S,
            UNTIMED_LIFE_S,
        ]
        async with available():
            return bool(await self._remember(keys=[_seen(key_id, kid, iv)], args=arguments))

    async def forget(self, key_id: str, kid: str, iv: bytes) -> None:
        """Let a sealed image be opened again."""
        async with available():
            await self._redis.delete(_seen(key_id, kid, iv))


def image_keys(key_id: str) -> str:
    """The name of the hash that holds a key's image keys."""
    return f"sdb:{{{key_id}}}:image-keys"


def _seen(key_id: str, kid: str, iv: bytes) -> str:
    return f"sdb:{{{key_id}}}:seen:{kid}:{iv.hex()}"


def _newest_first(fields: dict[str, str]) -> dict[str, Entry]:
    entries = {kid: Entry.model_validate_json(text) for kid, text in fields.items()}
    return dict(sorted(entries.items(), key=lambda item: -item[1].number))


def _ms(time: tuple[int, int]) -> float:
    seconds, microseconds = time
    return 1000 * seconds + microseconds / 1000


def _unknown(kid: str) -> UnknownKey:
    return UnknownKey(f"the key has no image key {kid!r}")
