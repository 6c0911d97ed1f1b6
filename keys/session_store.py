"""Console sessions in Redis (or Valkey).

Knows the layout; a session's id comes in as its digests, one for each master key, newest first:
`sdb:session:DIGEST` holds a `Kept` as JSON and expires when nobody has asked for it for a while.
"""

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict
from redis.asyncio import Redis

from keys.connection import available


class Kept(BaseModel):
    """What is kept of a session: whose it is, at which of the key's epochs, and what its forms must repeat."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key_id: str
    epoch: int
    csrf: str
    started_at: int
    """Seconds since 1970."""


class SessionStore:
    """Every method raises StoreUnavailable when the store does not answer."""

    def __init__(self, client: Redis) -> None:
        self._redis = client

    async def insert(self, digest: str, kept: Kept, idle_s: float) -> None:
        """Keep a new session until nobody has asked for it for `idle_s` seconds."""
        async with available():
            await self._redis.set(_name(digest), kept.model_dump_json(), px=_ms(idle_s))

    async def find(self, digests: Sequence[str], idle_s: float) -> Kept | None:
        """The session of one of these digests, which then lives `idle_s` seconds more; None if there is none."""
        async with available(), self._redis.pipeline(transaction=False) as pipeline:
            for digest in digests:
                pipeline.getex(_name(digest), px=_ms(idle_s))
            found = [text for text in await pipeline.execute() if text]
        return Kept.model_validate_json(found[0]) if found else None

    async def delete(self, digests: Sequence[str]) -> None:
        """End the session of these digests, if there is one."""
        async with available(), self._redis.pipeline(transaction=False) as pipeline:
            for digest in digests:
                pipeline.delete(_name(digest))
            await pipeline.execute()


def _name(digest: str) -> str:
    return f"sdb:session:{digest}"


def _ms(seconds: float) -> int:
    return int(1000 * seconds)
