"""Keys and budgets in Redis (or Valkey): the only file that speaks to it.

Knows the layout; knows no secret (digests come in) and no caller's rights. Per key, all in one hash slot:

* `sdb:{ID}` hash: `record` (what never changes, JSON), `state`, `epoch`, `expires_at`, `limit`, `used`
* `sdb:{ID}:holds` sorted set: answers charged and not yet given

and, for finding them: `sdb:digest:HMAC` → ID, `sdb:keys` (in order of creation,
numbered by `sdb:created`), `sdb:admins` (set).
"""

import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import ExponentialBackoff
from redis.exceptions import RedisError

from keys.errors import ConfigurationError, InvalidCredential, QuotaExceeded, StoreUnavailable, UnknownKey
from keys.records import Budget, Hold, KeyRecord, instant

SCRIPTS = Path(__file__).parent / "scripts"
HOLD_LIFE_S = 120.0
TIMEOUT_S = 2.0
CONNECTIONS, WAIT_FOR_CONNECTION_S = 50, 10.0
SENTINEL_CONNECTIONS = 10_000
SCHEMES = {"redis", "rediss", "unix", "redis+sentinel"}


def connect(url: str) -> Redis:
    """A client of the store at `url`; nothing is sent yet.

    Retries are safe because every script is: a hold is charged once however often it is asked for.

    Raises:
        ConfigurationError: the URL is of no known scheme, or incomplete.
    """
    try:
        parts = urlsplit(url)
        if parts.scheme in SCHEMES:
            return _sentinel(parts) if parts.scheme == "redis+sentinel" else _single(url)
    except ValueError:
        raise ConfigurationError("SDB_REDIS_URL cannot be understood") from None
    raise ConfigurationError(f"SDB_REDIS_URL must begin with one of {', '.join(sorted(SCHEMES))}")


def _options() -> dict[str, Any]:
    retry = Retry(ExponentialBackoff(cap=0.2, base=0.05), 2)
    return {
        "socket_timeout": TIMEOUT_S,
        "socket_connect_timeout": TIMEOUT_S,
        "decode_responses": True,
        "retry": retry,
    }


def _single(url: str) -> Redis:
    options = _options() | {"max_connections": CONNECTIONS, "timeout": WAIT_FOR_CONNECTION_S}
    return Redis.from_pool(BlockingConnectionPool.from_url(url, **options))


def _sentinel(parts: SplitResult) -> Redis:
    service, _, database = parts.path.strip("/").partition("/")
    hosts = [host.rpartition(":") for host in parts.netloc.rpartition("@")[2].split(",")]
    if not service or not all(host and port.isdecimal() for host, _, port in hosts):
        form = "redis+sentinel://[:password@]host:port[,host:port]/service[/db]"
        raise ConfigurationError(f"SDB_REDIS_URL must read {form}")
    addresses = [(host, int(port)) for host, _, port in hosts]
    username, password = (unquote(part) if part else None for part in (parts.username, parts.password))
    sentinel = Sentinel(addresses, sentinel_kwargs=_options())  # type: ignore[no-untyped-call]
    primary: Redis = sentinel.master_for(
        service,
        db=int(database or 0),
        username=username,
        password=password,
        max_connections=SENTINEL_CONNECTIONS,  # its pool does not block: a call beyond the cap would fail at once
        **_options(),
    )
    return primary


class KeyStore:
    """Every method raises StoreUnavailable when the store does not answer."""

    def __init__(self, client: Redis) -> None:
        self._redis = client
        self._charge = client.register_script((SCRIPTS / "charge.lua").read_text())
        self._release = client.register_script((SCRIPTS / "release.lua").read_text())
        self._revoke = client.register_script((SCRIPTS / "revoke.lua").read_text())

    async def ping(self) -> None:
        """Return when the store answers."""
        async with _available():
            await self._redis.ping()

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    async def insert(self, record: KeyRecord, digest: str) -> None:
        """Add a new key that is found under `digest`: all of it or nothing."""
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
        }
        async with _available(), self._redis.pipeline(transaction=True) as transaction:
            number = await self._redis.incr("sdb:created")  # several keys may be made in one second
            transaction.hset(_hash(record.id), mapping=fields)
            transaction.set(f"sdb:digest:{digest}", record.id)
            transaction.zadd("sdb:keys", {record.id: number})
            if record.kind == "admin":
                transaction.sadd("sdb:admins", record.id)
            await transaction.execute()

    async def find(self, digests: list[str]) -> KeyRecord:
        """The key whose secret has one of `digests`.

        Raises:
            InvalidCredential: there is none.
        """
        async with _available():
            names = await self._redis.mget([f"sdb:digest:{digest}" for digest in digests])
        found = [str(name) for name in names if name]
        try:
            return await self.get(found[0] if found else "")
        except UnknownKey:
            raise InvalidCredential from None

    async def get(self, key_id: str) -> KeyRecord:
        """The key with this id.

        Raises:
            UnknownKey: there is none.
        """
        async with _available():
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
        async with _available():
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
        async with _available():
            return bool(await self._redis.scard("sdb:admins"))

    async def revoke(self, key_id: str) -> None:
        """Revoke a key; its tokens die with it. A revoked key stays revoked.

        Raises:
            UnknownKey: there is none with this id.
        """
        async with _available():
            if not await self._revoke(keys=[_hash(key_id)]):
                raise UnknownKey(f"no key has the id {key_id!r}")

    async def charge(self, key: KeyRecord, count: int) -> Hold:
        """Check the key and hold `count` answers of its budget in one step.

        Raises:
            InvalidCredential: the key was revoked, disabled or rotated since it was read, or has expired.
            QuotaExceeded: less than `count` is left; nothing is held.
        """
        member = f"{secrets.token_hex(12)}:{count}"
        async with _available():
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
        async with _available():
            settled = await self._redis.zrem(_holds(hold.key_id), hold.member)
        if not settled:
            raise StoreUnavailable("the charge was given back before the answer could leave")

    async def release(self, hold: Hold) -> None:
        """Give the charge back."""
        async with _available():
            await self._release(keys=[_hash(hold.key_id), _holds(hold.key_id)], args=[hold.member, hold.count])


@asynccontextmanager
async def _available() -> AsyncIterator[None]:
    try:
        yield
    except (RedisError, OSError, TimeoutError) as error:
        raise StoreUnavailable(f"the key store does not answer ({type(error).__name__})") from error


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
            "expires_at": None if expires_at is None else instant(expires_at),
            "budget": {"limit": limit, "remaining": remaining},
        }
    )
