"""What a store lets strangers do, and how its clock goes: what an operator should hear of before others find it.

Asks the store about itself; knows no key. What the store does not tell its client is not known here either.
"""

import ipaddress
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from keys.connection import available, connect

LOOPBACK_NAMES = {"localhost", ""}


@dataclass(frozen=True)
class StoreFacts:
    """What a store says of itself."""

    server: str
    """"redis-server" or "valkey-server"."""
    version: str
    ahead_s: float
    """How many seconds its clock is ahead of ours, less what the question took."""
    without_password: bool | None
    """Whether somebody without any password is let in; None: it does not tell us."""
    beyond_loopback: bool | None
    """Whether it listens on an address that other machines reach; None: it does not tell us."""


async def store_facts(url: str) -> StoreFacts:
    """Ask the store at `url`.

    Raises:
        ConfigurationError: the URL cannot be understood.
        StoreUnavailable: it does not answer.
    """
    async with available():
        client = connect(url)
        try:
            server: dict[str, Any] = await client.info("server")
            asked = time.time()
            seconds, microseconds = await client.time()
            answered = time.time()
            default = await _told(client, "ACL", "GETUSER", "default")
            config = await _told(client, "CONFIG", "GET", "bind", "protected-mode", "port", "tls-port")
        finally:
            await client.aclose()
    return StoreFacts(
        server="valkey-server" if "valkey_version" in server else "redis-server",
        version=str(server.get("valkey_version", server["redis_version"])),
        ahead_s=_outside(seconds + microseconds / 1e6, asked, answered),
        without_password=None if default is None else _lets_anybody_in(default),
        beyond_loopback=None if config is None else _listens_beyond_loopback(config),
    )


async def _told(client: Redis, *command: str) -> Any | None:  # noqa: ANN401 - as Redis has it
    try:
        return await client.execute_command(*command)  # type: ignore[no-untyped-call]
    except ResponseError:  # a managed store tells its clients little
        return None


def _outside(moment: float, begin: float, end: float) -> float:
    """How far a moment lies before (negative) or after an interval."""
    return moment - end if moment > end else min(0.0, moment - begin)


def _lets_anybody_in(default: Any) -> bool:  # noqa: ANN401 - a list of pairs, or a mapping
    fields = default if isinstance(default, dict) else dict(zip(default[::2], default[1::2], strict=True))
    return {"on", "nopass"} <= set(fields.get("flags", ()))


def _listens_beyond_loopback(config: Any) -> bool:  # noqa: ANN401
    listening = any(int(config.get(name, 0) or 0) for name in ("port", "tls-port"))
    addresses = str(config.get("bind", "")).split() or ["*"]
    return listening and config.get("protected-mode") != "yes" and not all(is_loopback(each) for each in addresses)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address, or a name without one."""
    host = host.removeprefix("-").strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in LOOPBACK_NAMES


@dataclass(frozen=True)
class StoreAddress:
    """What a URL says of the way to a store."""

    hosts: tuple[str, ...]
    password: str
    encrypted: bool

    @property
    def local(self) -> bool:
        """Whether the way never leaves this machine."""
        return all(is_loopback(host) for host in self.hosts)

    @classmethod
    def of(cls, url: str) -> "StoreAddress":
        """The parts of a URL that `connect` takes."""
        parts = urlsplit(url)
        _, _, hosts = parts.netloc.rpartition("@")
        names = tuple(_host(each) for each in hosts.split(",")) if parts.scheme != "unix" else ()
        return cls(names, unquote(parts.password or ""), parts.scheme in {"rediss", "unix"})


def _host(address: str) -> str:
    return address.rpartition("]")[0] if address.startswith("[") else address.partition(":")[0]
