"""Keys and budgets in Redis (or Valkey); what else a key owns there is in keys/image_store.py.

Knows the layout; knows no secret (digests come in) and no caller's rights. Per key, all in one hash slot:

* `sdb:{ID}` hash: `record` (what never changes, JSON), `state`, `epoch`, `expires_at`, `limit`, `used`, `master`
* `sdb:{ID}:holds` sorted set: answers charged and not yet given

and, for finding them: `sdb:digest:HMAC` → ID, `sdb:keys` (in order of creation,
numbered by `sdb:created`), `sdb:admins` (set).
"""

import json
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from redis.asyncio import Redis

from keys.connection import SCRIPTS, available
from keys.errors import InvalidCredential, QuotaExceeded, StoreUnavailable, UnknownKey
from keys.image_store import Entry, ImageKeyStore
from keys.image_store import image_keys as image_key_names
from keys.records import Budget, Hold, KeyRecord, instant

HOLD_LIFE_S = 120.0


class KeyStore:
    """Every method raises StoreUnavailable when the store does not answer."""

    def __init__(self, client: Redis) -> None:
        self._redis, self.image_keys = client, ImageKeyStore(client)
        self._charge = client.register_script((SCRIPTS / "charge.lua").read_text())
        self._release = client.register_script((SCRIPTS / "release.lua").read_text())
        self._revoke = client.register_script((SCRIPTS / "revoke.lua").read_text())

    async def ping(self) -> None:
        """Return when the store answers."""
        async with available():
            await self._redis.ping()

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    async def insert(self, record: KeyRecord, digest: str, image_keys: Mapping[str, Entry] = {}) -> None:
        """Add a new key that is found under `digest`, and its first image keys by `kid`: all of it or nothing."""
        fixed = record.model_dump(
            mode="json", include={"id", "kind", "name", "scopes", "models", "created_at", "metadata"}
        )
        fields: dict[bytes | bytearray | memoryview[int] | str | int | float, Any] = {
            "record": json.dumps(fixed),
            "state": record.state,
            "epoch": record.epoch,
            "expires_at": "" if record.expires_at is None else int(record.expires_at.timestamp()),
            "limit": "" if record.budget.limit is None else record.budget.limit,
            "used": 0,
            "master": record.master,
        }
        async with available(), self._redis.pipeline(transaction=True) as transaction:
            number = await self._redis.incr("sdb:created")  # several keys may be made in one second
            transaction.hset(_hash(record.id), mapping=fields)
            transaction.set(f"sdb:digest:{digest}", record.id)
            transaction.zadd("sdb:keys", {record.id: number})
            for kid, entry in image_keys.items():
                transaction.hset(image_key_names(record.id), kid, entry.text())
            if record.kind == "admin":
                transaction.sadd("sdb:admins", record.id)
            await transaction.execute()

    async def find(self, digests: list[str]) -> KeyRecord:
        """The key whose secret has one of `digests`.

        Raises:
            InvalidCredential: there is none.
        """
        async with available():
            names = await self._redis.mget([f"sdb:digest:{digest}" for digest in digests])
        found = [str(name) for name in names if name]
        try:
            return await self.get(found[0] if found else "")
        except UnknownKey:
            raise InvalidCredential from None

    async def refile(self, key: KeyRecord, digests: Sequence[str], master: str) -> None:
        """Let a key be found under the first of these digests of its secret, too: that of the master key `master`."""
        newest, *older = [f"sdb:digest:{digest}" for digest in digests]
        async with available(), self._redis.pipeline(transaction=True) as transaction:
            for name in older:
                transaction.copy(name, newest)  # does nothing where there is no such digest
            transaction.hset(_hash(key.id), "master", master)
            await transaction.execute()

    async def get(self, key_id: str) -> KeyRecord:
        """The key with this id.

        Raises:
            UnknownKey: there is none.
        """
        async with available():
            (record,) = await self._read([key_id])
        if record is None:
            raise UnknownKey(f"no key has the id {key_id!r}")
        return record

    async def _read(self, key_ids: list[str]) -> list[KeyRecord | None]:
        """The keys with these ids as the store's clock sees them, in one round trip."""
        async with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.time()
            for key_id in key_ids:
                pipeline.hgetall(_hash(key_id))
                pipeline.zrange(_holds(key_id), 0, -1, withscores=True)
            (seconds, microseconds), *answers = await pipeline.execute()
        now = 1000 * seconds + microseconds / 1000
        pairs = zip(answers[::2], answers[1::2], strict=True)
        return [_record(fields, holds, now) if fields else None for fields, holds in pairs]

    async def page(self, after: str | None, size: int) -> list[KeyRecord]:
        """At most `size` keys, newest first, that were created before the key `after`.

        Raises:
            UnknownKey: `after` is no key.
        """
        async with available():
            first = 0
            if after is not None:
                rank: Any = await self._redis.zrevrank("sdb:keys", after)
                if rank is None:
                    raise UnknownKey("the cursor is not valid")
                first = rank + 1
            ids = await self._redis.zrevrange("sdb:keys", first, first + size - 1)
            return [record for record in await self._read([str(key_id) for key_id in ids]) if record is not None]

    async def has_admin(self) -> bool:
        """Whether an admin key was ever made."""
        async with available():
            return bool(await self._redis.scard("sdb:admins"))

    async def revoke(self, key_id: str) -> None:
        """Revoke a key; its tokens die with it. A revoked key stays revoked.

        Raises:
            UnknownKey: there is none with this id.
        """
        async with available():
            if not await self._revoke(keys=[_hash(key_id)]):
                raise UnknownKey(f"no key has the id {key_id!r}")

    async def charge(self, key: KeyRecord, count: int) -> Hold:
        """Check the key and hold `count` answers of its budget in one step.

        Raises:
            InvalidCredential: the key was revoked, disabled or rotated since it was read, or has expired.
            QuotaExceeded: less than `count` is left; nothing is held.
        """
        member = f"{secrets.token_hex(12)}:{count}"
        async with available():
            arguments: list[Any] = [key.epoch, count, member, int(HOLD_LIFE_S * 1000)]
            verdict, limit, remaining = await self._charge(keys=[_hash(key.id), _holds(key.id)], args=arguments)
        if verdict == "invalid":
            raise InvalidCredential
        if verdict == "exceeded":
            raise QuotaExceeded(int(limit), int(remaining), count)
        budget = Budget(limit=_number(limit), remaining=_number(remaining))
        return Hold(key.id, member, count, budget)

    async def settle(self, hold: Hold) -> None:
        """Make the charge final; afterwards the answer may leave.

        Raises:
            StoreUnavailable: the store is away, or has given the hold back; then the answer must not leave.
        """
        async with available():
            settled = await self._redis.zrem(_holds(hold.key_id), hold.member)
        if not settled:
            raise StoreUnavailable("the charge was given back before the answer could leave")

    async def release(self, hold: Hold) -> None:
        """Give the charge back."""
        async with available():
            await self._release(keys=[_hash(hold.key_id), _holds(hold.key_id)], args=[hold.member, hold.count])


def _hash(key_id: str) -> str:
    return f"sdb:{{{key_id}}}"


def _holds(key_id: str) -> str:
    return f"sdb:{{{key_id}}}:holds"


def _number(text: str) -> int | None:
    return int(text) if text else None


def _record(fields: dict[str, str], holds: list[tuple[str, float]], now: float) -> KeyRecord:
    """A key of its hash and its holds at `now` (ms): what has expired is as good as given back."""
    limit = _number(fields["limit"])
    expired = sum(int(member.rpartition(":")[2]) for member, expiry in holds if expiry <= now)
    remaining = None if limit is None else max(0, limit - int(fields["used"]) + expired)
    expires_at = _number(fields["expires_at"])
    return KeyRecord.model_validate(
        {
            **json.loads(fields["record"]),
            "state": fields["state"],
            "epoch": int(fields["epoch"]),
            "master": fields.get("master", ""),
            "expires_at": None if expires_at is None else instant(expires_at),
            "budget": {"limit": limit, "remaining": remaining},
        }
    )
