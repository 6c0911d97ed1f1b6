"""The way to Redis (or Valkey): its address, and one error for whatever goes wrong on the way.

Knows no key and no layout.
"""

import asyncio
import copy
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Self
from urllib.parse import SplitResult, unquote, urlsplit

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import ExponentialBackoff
from redis.exceptions import AuthenticationError, RedisError
from redis.exceptions import ConnectionError as NotConnected

from keys.errors import ConfigurationError, StoreUnavailable

TIMEOUT_S = 2.0
CONNECTIONS, WAIT_FOR_CONNECTION_S = 50, 10.0
ANSWERED_WITHIN_S = 5.0  # with all that is tried again on the way
SENTINEL_CONNECTIONS = 10_000
SCHEMES = {"redis", "rediss", "unix", "redis+sentinel"}
Seen = Callable[[float, str], None]
"""Told of every round trip: how many seconds it took, and the kind of error if it failed."""


def unseen(seconds: float, error: str) -> None:
    """Nobody listens."""


class WatchedRetry(Retry):
    """redis-py asks this for every round trip, and takes a copy for each of its connections."""

    def __init__(self, seen: Seen) -> None:
        # A store that was silent for TIMEOUT_S hangs: to wait for it once more would only make its callers wait longer.
        super().__init__(ExponentialBackoff(cap=0.2, base=0.05), 2, (NotConnected,))
        self._seen, self._inside = seen, False

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        twin = copy.copy(self)
        twin._backoff = copy.deepcopy(self._backoff, memo)  # it counts failures
        return twin

    async def call_with_retry(self, do: Callable[[], Awaitable[Any]], *how: Any, **also: Any) -> Any:  # noqa: ANN401
        """What `do` gives; to connect on the way to it is a part of it. A wrong password does not get right."""
        also.setdefault("is_retryable", lambda error: reason(error) != AuthenticationError.__name__)
        if self._inside:
            return await super().call_with_retry(do, *how, **also)
        began, self._inside = time.perf_counter(), True
        try:
            answer = await super().call_with_retry(do, *how, **also)
        except (RedisError, OSError, TimeoutError) as failure:
            self._seen(time.perf_counter() - began, type(failure).__name__)
            raise
        finally:
            self._inside = False
        self._seen(time.perf_counter() - began, "")
        return answer


def connect(url: str, seen: Seen = unseen) -> Redis:
    """A client of the store at `url`; nothing is sent yet.

    Retries are safe because every script is: a hold is charged once however often it is asked for.

    Raises:
        ConfigurationError: the URL is of no known scheme, or incomplete.
    """
    try:
        parts = urlsplit(url)
        if parts.scheme in SCHEMES:
            return _sentinel(parts, seen) if parts.scheme == "redis+sentinel" else _single(url, seen)
    except ValueError:
        raise ConfigurationError("SDB_REDIS_URL cannot be understood") from None
    raise ConfigurationError(f"SDB_REDIS_URL must begin with one of {', '.join(sorted(SCHEMES))}")


def _options(seen: Seen) -> dict[str, Any]:
    return {
        "socket_timeout": TIMEOUT_S,
        "socket_connect_timeout": TIMEOUT_S,
        "decode_responses": True,
        "retry": WatchedRetry(seen),
    }


def _single(url: str, seen: Seen) -> Redis:
    options = _options(seen) | {"max_connections": CONNECTIONS, "timeout": WAIT_FOR_CONNECTION_S}
    return Redis.from_pool(BlockingConnectionPool.from_url(url, **options))


class _Sentinels(Sentinel):
    """Ask one after the other who the primary is.

    redis-py puts the Sentinel that has answered first in its list; done by several calls at once, it forgets some.
    """

    def __init__(self, addresses: list[tuple[str, int]], sentinel_kwargs: dict[str, Any]) -> None:
        super().__init__(addresses, sentinel_kwargs=sentinel_kwargs)  # type: ignore[no-untyped-call]
        self._turn = asyncio.Lock()

    async def discover_master(self, service_name: str) -> tuple[str, int]:
        async with self._turn:
            found: tuple[str, int] = await super().discover_master(service_name)
            return found


class _Watched(Redis):
    """A client of whatever the Sentinels name; closed, it leaves no connection to them either."""

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        await super().aclose(close_connection_pool)
        pool: Any = self.connection_pool
        for sentinel in pool.sentinel_manager.sentinels:
            await sentinel.aclose()


def _sentinel(parts: SplitResult, seen: Seen) -> Redis:
    service, _, database = parts.path.strip("/").partition("/")
    hosts = [host.rpartition(":") for host in parts.netloc.rpartition("@")[2].split(",")]
    if not service or not all(host and port.isdecimal() for host, _, port in hosts):
        form = "redis+sentinel://[:password@]host:port[,host:port]/service[/db]"
        raise ConfigurationError(f"SDB_REDIS_URL must read {form}")
    addresses = [(host.strip("[]"), int(port)) for host, _, port in hosts]
    username, password = (unquote(part) if part else None for part in (parts.username, parts.password))
    sentinels = _Sentinels(addresses, _options(seen))
    primary: Redis = sentinels.master_for(
        service,
        redis_class=_Watched,
        db=int(database or 0),
        username=username,
        password=password,
        max_connections=SENTINEL_CONNECTIONS,  # its pool does not block: a call beyond the cap would fail at once
        **_options(seen),
    )
    return primary


@asynccontextmanager
async def available() -> AsyncIterator[None]:
    """Turn every failure to reach the store, and to do so in time, into StoreUnavailable."""
    try:
        async with asyncio.timeout(ANSWERED_WITHIN_S):
            yield
    except (RedisError, OSError, TimeoutError) as error:
        raise unavailable(error) from error


def unavailable(error: Exception) -> StoreUnavailable:
    """What a failure to reach the store is to a request."""
    return StoreUnavailable(f"the key store does not answer ({reason(error)})")


def reason(error: Exception) -> str:
    """The kind of an error; a refused password comes wrapped, as a connection that was not made."""
    return type(error.__cause__ if isinstance(error.__cause__, AuthenticationError) else error).__name__
