"""What tests of keys ask for: servers to keep them on, keys to put there, and services with a clock that is set."""

import asyncio
import hashlib
import json
import secrets
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from redis import Redis as PlainRedis
from redis.asyncio import Redis
from redis.exceptions import RedisError

from keys.budget_store import Ask
from keys.connection import connect
from keys.embedded import EmbeddedStore
from keys.image_store import Entry
from keys.layout import hash_of, insertion, replacement, top_up
from keys.material import Keyring, Vault
from keys.records import Act, Admission, Budget, BudgetGrant, Idempotency, IssuedKey, KeyGrant, KeyRecord, Proof
from keys.service import KeyService
from keys.store import Change, KeyStore, Logged, Snapshot
from keys.tokens import TokenMint

NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)
MASTER, NEXT_MASTER, SIGNING = (hashlib.sha256(name).digest() for name in (b"master", b"next", b"signing"))
ADMIN, MODEL = Act("cli"), "tiny"
Serve = Callable[[Path], AbstractContextManager[str]]


@contextmanager
def embedded(folder: Path) -> Iterator[str]:
    with EmbeddedStore(folder) as store:
        yield store.url


def wait_for_answer(url: str) -> None:
    """Until the server answers: its socket is there before it listens."""
    give_up = time.monotonic() + 30
    with PlainRedis.from_url(url, socket_timeout=5) as client:
        while True:
            try:
                client.ping()
            except RedisError:
                assert time.monotonic() < give_up, "the store does not start"
                time.sleep(0.02)
            else:
                return


@contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    binary = shutil.which("redis-server")
    if binary is None:
        pytest.skip("no redis-server on this machine")
    socket = folder / "redis.sock"
    options = f"--port 0 --unixsocket {socket} --dir {folder} --appendonly yes --appendfsync always".split()
    command = [binary, *options, "--save", ""]
    url = f"unix://{socket}"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:  # noqa: S603 - our own command
        try:
            wait_for_answer(url)
            yield url
        finally:
            process.terminate()


@pytest.fixture(scope="module", params=[embedded, redis_server], ids=["embedded", "redis-server"])
def serve(request: pytest.FixtureRequest) -> Serve:
    """How to run a server on a folder; run on it again, it has the same data and socket."""
    server: Serve = request.param
    return server


@contextmanager
def hurried(server: AbstractContextManager[str]) -> Iterator[str]:
    """A server that does not wait for its disk; what a crash leaves behind is tested in test_embedded.py."""
    with server as url, PlainRedis.from_url(url) as client:
        client.config_set("appendfsync", "no")
        yield url


@pytest.fixture(scope="module")
def url(serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with hurried(serve(tmp_path_factory.mktemp("redis"))) as url:
        yield url


@pytest.fixture
async def client(url: str) -> AsyncIterator[Redis]:
    async with connect(url) as client:
        await client.flushall()
        yield client
        beside = asyncio.all_tasks() - {asyncio.current_task()}  # a refusal is written down beside it
        if beside:
            await asyncio.wait(beside, timeout=1)


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


async def commit(store: KeyStore, key_id: str, plan: Callable[[Snapshot], Change], name: str = "") -> str:
    """Make a change as keys/changes.py does, with a log that nobody reads; what the change of this name gave."""
    name = name or secrets.token_hex(8)
    while True:
        snapshot = await store.snapshot(key_id, name)
        head = json.dumps({"seq": snapshot.number, "hash": ""})
        logged = Logged("{}", head, name, secrets.token_hex(8), 60)
        result = await store.commit(key_id, snapshot, plan(snapshot), logged)
        if result is not None:
            return result


async def insert(
    store: KeyStore, limit: int | None = 100, entries: Mapping[str, Entry] = {}, **changes: object
) -> KeyRecord:
    """A new key in the store, which `digest_of` finds, with image keys."""
    record = a_record(limit, **changes)
    texts = {kid: entry.text() for kid, entry in entries.items()}
    await commit(
        store, record.id, lambda snapshot: Change(insertion(record, digest_of(record), snapshot.number, texts))
    )
    return record


async def change(store: KeyStore, record: KeyRecord, **changes: object) -> KeyRecord:
    """Put another key in the place of `record`, whose budget and revision are those in the store."""

    def plan(snapshot: Snapshot) -> Change:
        old = snapshot.record
        return Change(replacement(old, old.model_copy(update={"revision": old.revision + 1, **changes})))

    await commit(store, record.id, plan)
    return await store.get(record.id)


async def charge(store: KeyStore, record: KeyRecord, count: int, named: Idempotency | None = None) -> Admission:
    return await store.budgets.admit(record, Proof(digest_of(record)), Ask(count, count, MODEL, named))


async def grant(store: KeyStore, record: KeyRecord, answers: int) -> None:
    await commit(store, record.id, lambda _: Change(top_up(record.id, answers), ledger=("top-up", answers)))


async def let_lapse(client: Redis, *admissions: Admission) -> None:
    """As if the life of these holds were over, or the time for which a settled one is known."""
    for admission in admissions:
        name, field = hash_of(admission.key_id), f"held:{admission.hold}"
        held = await client.hget(name, field)
        if held is not None:
            await client.hset(name, field, "1:" + str(held).partition(":")[2])
        await client.zadd(f"{name}:settled", {admission.hold: 1}, xx=True)
        await client.hset(name, "due", "1")


@dataclass
class Clock:
    """A clock that stands until it is set."""

    now: float

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock(time.time())


@pytest.fixture
def mint(clock: Clock) -> TokenMint:
    return TokenMint(Keyring([SIGNING]), 900, clock)


@pytest.fixture
def service(client: Redis, clock: Clock) -> KeyService:
    return another_service(client, clock)


def another_service(
    client: Redis, clock: Callable[[], float] = time.time, masters: Sequence[bytes] = (MASTER,), replicas: int = 0
) -> KeyService:
    """A service as another process has it, on the same store: with a memory of its own, and these master keys."""
    mint = TokenMint(Keyring([SIGNING]), 900, clock)
    return KeyService(KeyStore(client, replicas), Vault(Keyring(masters)), mint, clock)


async def issue(service: KeyService, limit: int | None = 100, **changes: object) -> IssuedKey:
    """A new client key that may ask for charged answers."""
    fields = {"name": "partner", "scopes": {"distill"}, "budget": BudgetGrant(limit=limit), **changes}
    return await service.lifecycle.create(KeyGrant.model_validate(fields), ADMIN)
