"""A session lives while somebody works and its key is good, twelve hours at most; only a browser knows its id."""

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest
from redis.asyncio import Redis

from keys.changes import Changes
from keys.connection import connect
from keys.errors import StoreUnavailable
from keys.material import Keyring, Vault
from keys.records import Act, KeyGrant, KeyRecord, Origin, instant
from keys.service import KeyService
from keys.sessions import IDLE_S, LONGEST_S, SessionService
from keys.store import KeyStore
from keys.tokens import TokenMint
from tests.keys.conftest import Clock

MASTER, NEXT, SIGNING = (hashlib.sha256(name).digest() for name in (b"master", b"next", b"signing"))
ACT = Act(actor="cli")
FROM = Origin("request-7", "192.0.2.7")


def sessions_on(store: KeyStore, masters: Sequence[bytes], clock: Clock) -> SessionService:
    vault = Vault(Keyring(masters))
    return SessionService(store, vault, Changes(store, vault), clock)


@pytest.fixture
def store(client: Redis) -> KeyStore:
    return KeyStore(client)


@pytest.fixture
def keys(store: KeyStore, clock: Clock) -> KeyService:
    return KeyService(store, Vault(Keyring([MASTER])), TokenMint(Keyring([SIGNING]), 900, clock), clock)


@pytest.fixture
def sessions(keys: KeyService) -> SessionService:
    return keys.sessions


async def a_key(keys: KeyService, **grant: object) -> KeyRecord:
    return (await keys.lifecycle.create(KeyGrant.model_validate({"name": "lab", **grant}), ACT)).record


async def test_a_session_is_its_keys_and_has_a_secret_of_its_own(keys: KeyService, sessions: SessionService) -> None:
    key = await a_key(keys)
    one, other = [await sessions.find(await sessions.start(key, FROM)) for _ in range(2)]
    assert one
    assert other
    assert one.key == other.key == await keys.directory.show(key.id)
    assert one.csrf != other.csrf
    assert one.csrf not in repr(one)


@pytest.mark.parametrize("nobody", ["", "x" * 43, "ж" * 43, "a" * 100_000, "x" * 42 + "\n"])
async def test_an_id_that_was_never_given_finds_nothing(sessions: SessionService, nobody: str) -> None:
    assert await sessions.find(nobody) is None


async def test_who_reads_the_store_cannot_take_a_session_over(
    keys: KeyService, sessions: SessionService, client: Redis
) -> None:
    session_id = await sessions.start(await a_key(keys), FROM)
    (name,) = [str(name) for name in await client.keys("sdb:session:*")]
    assert session_id not in name + str(await client.get(name))
    assert await sessions.find(name.rpartition(":")[2][:43]) is None


async def test_an_api_key_is_no_session(keys: KeyService, sessions: SessionService) -> None:
    issued = await keys.lifecycle.create(KeyGrant(name="lab"), ACT)
    await sessions.start(issued.record, FROM)
    assert await sessions.find(issued.api_key) is None


async def test_a_session_ends_when_nobody_works_and_lives_while_somebody_does(
    keys: KeyService, sessions: SessionService, client: Redis
) -> None:
    """The store ends it: how long it has left there is all that counts."""
    session_id = await sessions.start(await a_key(keys), FROM)
    (name,) = await client.keys("sdb:session:*")
    for _ in range(2):
        assert IDLE_S - 60 < await client.pttl(name) / 1000 <= IDLE_S
        await client.expire(name, 60)  # as if nobody had worked for long
        assert await sessions.find(session_id)
    await client.expire(name, 0)
    assert await sessions.find(session_id) is None


async def test_a_session_ends_after_twelve_hours_of_work(
    keys: KeyService, sessions: SessionService, clock: Clock
) -> None:
    session_id = await sessions.start(await a_key(keys), FROM)
    clock.now += LONGEST_S - 2
    assert await sessions.find(session_id)
    clock.now += 2
    assert await sessions.find(session_id) is None
    clock.now -= LONGEST_S
    assert await sessions.find(session_id) is None  # what is over stays over


Change = Callable[[KeyService, str], Awaitable[object]]


@pytest.mark.parametrize(
    "change",
    [
        lambda keys, key_id: keys.lifecycle.revoke(key_id, ACT),
        lambda keys, key_id: keys.lifecycle.disable(key_id, ACT),
        lambda keys, key_id: keys.lifecycle.rotate(key_id, 3600, ACT),
    ],
    ids=["revoke", "disable", "rotate"],
)
async def test_a_session_dies_with_its_key_at_once_and_for_good(
    keys: KeyService, sessions: SessionService, change: Change
) -> None:
    key, another = await a_key(keys), await a_key(keys)
    session_id, foreign = await sessions.start(key, FROM), await sessions.start(another, FROM)
    await change(keys, key.id)
    assert await sessions.find(session_id) is None
    if (await keys.directory.show(key.id)).state == "disabled":
        await keys.lifecycle.enable(key.id, ACT)
        assert await sessions.find(session_id) is None
    assert await sessions.find(foreign)


async def test_a_session_ends_when_its_key_expires(keys: KeyService, sessions: SessionService, clock: Clock) -> None:
    session_id = await sessions.start(await a_key(keys, expires_at=instant(clock.now + 60)), FROM)
    clock.now += 59
    assert await sessions.find(session_id)
    clock.now += 2
    assert await sessions.find(session_id) is None


async def test_a_session_that_is_ended_is_over_and_others_of_the_key_are_not(
    keys: KeyService, sessions: SessionService
) -> None:
    key = await a_key(keys)
    one, other = await sessions.start(key, FROM), await sessions.start(key, FROM)
    await sessions.end(one)
    await sessions.end(one)
    assert await sessions.find(one) is None
    assert await sessions.find(other)


async def test_a_session_outlives_a_rotation_of_the_master_key(
    store: KeyStore, keys: KeyService, sessions: SessionService, clock: Clock
) -> None:
    session_id = await sessions.start(await a_key(keys), FROM)
    after = sessions_on(store, [NEXT, MASTER], clock)
    assert await after.find(session_id)
    await after.end(session_id)
    assert await sessions.find(session_id) is None


async def test_a_store_that_is_away_is_no_answer(tmp_path: Path, clock: Clock) -> None:
    async with connect(f"unix://{tmp_path}/nobody.sock") as nobody:
        sessions = sessions_on(KeyStore(nobody), [MASTER], clock)
        with pytest.raises(StoreUnavailable):
            await sessions.find("x" * 43)


async def test_every_start_is_in_the_audit_log_and_what_was_refused_once_a_minute_for_each_network(
    keys: KeyService, sessions: SessionService
) -> None:
    key = await a_key(keys)
    for _ in range(2):
        await sessions.start(key, FROM)
    for address in ("192.0.2.7", "192.0.2.7", "192.0.2.8", None):
        await sessions.refused(Origin("request-8", address))
    entries = (await keys.audit.page(None, 100))[0][::-1]
    assert [(entry.action, entry.target, entry.actor, entry.address) for entry in entries[1:]] == [
        ("session.start", key.id, key.id, "192.0.2.7"),
        ("session.start", key.id, key.id, "192.0.2.7"),
        ("session.refuse", "console", "console", "192.0.2.7"),
        ("session.refuse", "console", "console", "192.0.2.8"),
        ("session.refuse", "console", "console", None),
    ]
    assert (await keys.audit.verify()).intact
