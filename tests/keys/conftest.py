"""What tests of the key store ask for: servers to run it on, and keys to put there."""

import hashlib
import secrets
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from keys.connection import connect
from keys.embedded import EmbeddedStore
from keys.records import Budget, KeyRecord
from keys.store import KeyStore

NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)
Serve = Callable[[Path], AbstractContextManager[str]]


@contextmanager
def embedded(folder: Path) -> Iterator[str]:
    with EmbeddedStore(folder) as store:
        yield store.url


@contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    binary = shutil.which("redis-server")
    if binary is None:
        pytest.skip("no redis-server on this machine")
    socket = folder / "redis.sock"
    options = f"--port 0 --unixsocket {socket} --dir {folder} --appendonly yes --appendfsync always".split()
    command = [binary, *options, "--save", ""]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:  # noqa: S603 - our own command
        try:
            give_up = time.monotonic() + 10
            while not socket.exists() and time.monotonic() < give_up:
                time.sleep(0.02)
            yield f"unix://{socket}"
        finally:
            process.terminate()


@pytest.fixture(scope="module", params=[embedded, redis_server], ids=["embedded", "redis-server"])
def serve(request: pytest.FixtureRequest) -> Serve:
    """How to run a server on a folder; run on it again, it has the same data and socket."""
    server: Serve = request.param
    return server


@pytest.fixture(scope="module")
def url(serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serve(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture
async def client(url: str) -> AsyncIterator[Redis]:
    async with connect(url) as client:
        await client.flushall()
        yield client


@pytest.fixture
def store(client: Redis) -> KeyStore:
    return KeyStore(client)


def a_record(limit: int | None = 100, **changes: object) -> KeyRecord:
    """A new client key of its own."""
    fields: dict[str, Any] = {
        "id": f"key_{secrets.token_hex(10)}",
        "kind": "client",
        "name": "Müller & Söhne “β”",
        "scopes": ("distill", "predict"),
        "models": ("cifar10", "tiny"),
        "state": "active",
        "created_at": NOON,
        "expires_at": None,
        "budget": Budget(limit=limit, remaining=limit),
        "metadata": {"contract": "7/2026"},
        "epoch": 0,
        "master": "5f0c",
        **changes,
    }
    return KeyRecord(**fields)


def digest_of(record: KeyRecord) -> str:
    return hashlib.sha256(record.id.encode()).hexdigest()


async def insert(store: KeyStore, limit: int | None = 100, **changes: object) -> KeyRecord:
    record = a_record(limit, **changes)
    await store.insert(record, digest_of(record))
    return record
