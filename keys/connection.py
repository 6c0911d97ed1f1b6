"""The way to Redis (or Valkey): its address, and one error for whatever goes wrong on the way.

Knows no key and no layout.
"""

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

from keys.errors import ConfigurationError, StoreUnavailable

SCRIPTS = Path(__file__).parent / "scripts"
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


@asynccontextmanager
async def available() -> AsyncIterator[None]:
    """Turn every failure to reach the store into StoreUnavailable."""
    try:
        yield
    except (RedisError, OSError, TimeoutError) as error:
        raise StoreUnavailable(f"the key store does not answer ({type(error).__name__})") from error
