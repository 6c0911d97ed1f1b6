"""Image keys in Redis (or Valkey), in the hash slot of the key that owns them; `KeyStore` holds one.

Knows the layout; secrets come in sealed, as text. Per key:

* `sdb:{ID}:image-keys` hash: kid → entry (JSON), in which `ends_at` (ms) is missing while the image key is active, and
  `secret` once it is retired

What state an image key is in is a question of time, which the store's clock answers alone.
"""

from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict, ValidationError
from redis.asyncio import Redis

from keys.connection import available
from keys.errors import UnknownKey
from keys.image_keys import ImageKey, ImageKeyState, ImageScheme, PixelTransform
from keys.layout import hash_of, image_keys
from keys.records import instant
from keys.scripting import Scripts


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

    def ended(self, ends_at: float | None, now: float) -> "Entry":
        """The same, ending at `ends_at` (ms) unless it ends before; one that has ended at `now` has no secret."""
        if ends_at is None:
            return self
        ends_at = min(int(ends_at), self.ends_at or int(ends_at))
        return self.model_copy(update={"ends_at": ends_at} | ({"secret": None} if ends_at <= now else {}))

    def text(self) -> str:
        """The entry as the store keeps it."""
        return self.model_dump_json(exclude_none=True)


class ImageKeyStore:
    """Every method raises StoreUnavailable when the store does not answer."""

    def __init__(self, client: Redis, scripts: Scripts) -> None:
        self._redis, self._scripts = client, scripts

    async def entries(self, key_ids: Sequence[str]) -> tuple[list[dict[str, Entry]], float]:
        """The image keys of each of these keys, newest first, and the time of the store's clock (ms)."""
        async with available(), self._redis.pipeline(transaction=False) as pipeline:
            pipeline.time()
            for key_id in key_ids:
                pipeline.hgetall(image_keys(key_id))
            time, *hashes = await pipeline.execute()
        return [newest_first(fields) for fields in hashes], _ms(time)

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
            raise unknown_image_key(kid) from None

    async def reseal(self, key_id: str, kid: str, old: str, new: str) -> bool:
        """Put `new` in the place of the sealed secret `old`; False if it is no longer there."""
        return bool(await self._scripts.run_durably("reseal", [hash_of(key_id), image_keys(key_id)], [kid, old, new]))


def newest_first(fields: Mapping[str, str]) -> dict[str, Entry]:
    """The image keys of a hash by their ids."""
    entries = {kid: Entry.model_validate_json(text) for kid, text in fields.items()}
    return dict(sorted(entries.items(), key=lambda item: -item[1].number))


def _ms(time: tuple[int, int]) -> float:
    seconds, microseconds = time
    return 1000 * seconds + microseconds / 1000


def unknown_image_key(kid: str) -> UnknownKey:
    """What to raise for an image key that its owner does not have."""
    return UnknownKey(f"the key has no image key {kid!r}")
