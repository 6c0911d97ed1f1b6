"""Keys in a real store: the embedded Valkey, and redis-server where the machine has one."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.crc import key_slot

from keys.budget_store import Ask
from keys.connection import connect
from keys.errors import ConfigurationError, InvalidCredential, StoreUnavailable, UnknownKey
from keys.image_keys import ImageKeyGrant
from keys.layout import replacement, rotation, top_up
from keys.material import check_api_key, to_text
from keys.pipelines import LOOKED_FOR_EVERY_S
from keys.records import MAX_BUDGET, Act, Budget, Idempotency, KeyGrant, KeyRecord, Proof, RateLimit, Seal
from keys.service import NOBODY
from keys.store import Change, KeyStore, Logged, Snapshot
from tests.keys.conftest import (
    ADMIN,
    MASTER,
    NEXT_MASTER,
    NOON,
    Clock,
    Serve,
    a_record,
    another_service,
    change,
    commit,
    digest_of,
    insert,
)

LOGGED = Logged("entry", "head", "name", "result", 60)
NOTHING = Snapshot(0, {}, {}, "", None)

# --- records


RECORDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "unlimited": {"limit": None},
    "no budget": {"limit": 0},
    "greatest budget": {"limit": MAX_BUDGET},
    "rate limits": {
        "rate_limits": (
            RateLimit(name="burst", limit=1, window_s=1),
            RateLimit(name="0-9", limit=MAX_BUDGET, window_s=31 * 24 * 3600),
        )
    },
    "expiring": {"expires_at": NOON + timedelta(days=365)},
    "expiring in the far future": {"expires_at": datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)},
    "admin": {"kind": "admin", "scopes": (), "metadata": {}},
    "disabled": {"state": "disabled", "epoch": 7, "revision": 12},
}


@pytest.mark.parametrize("changes", RECORDS.values(), ids=RECORDS.keys())
async def test_a_key_is_got_and_found_as_it_was_inserted(store: KeyStore, changes: dict[str, Any]) -> None:
    record = await insert(store, **changes)
    assert await store.get(record.id) == record
    assert await store.find([digest_of(record)]) == (record, digest_of(record))
    assert await store.page(None, 10) == [record]


@pytest.mark.parametrize("changes", RECORDS.values(), ids=RECORDS.keys())
async def test_a_key_that_is_replaced_is_got_as_its_replacement(store: KeyStore, changes: dict[str, Any]) -> None:
    before, after = await insert(store), a_record(**changes)
    fields = {name: getattr(after, name) for name in type(after).model_fields} | {"id": before.id, "revision": 1}
    assert await change(store, before, **fields) == KeyRecord(**fields)


async def test_a_key_is_found_under_any_of_the_digests_of_a_rotated_master_key(store: KeyStore) -> None:
    record = await insert(store)
    assert await store.find(["0" * 64, digest_of(record)]) == (record, digest_of(record))


async def test_an_unknown_digest_is_an_invalid_credential(store: KeyStore) -> None:
    record = await insert(store)
    for digests in ([], ["0" * 64], [record.id], ["0" * 64, "1" * 64]):
        with pytest.raises(InvalidCredential):
            await store.find(digests)


@pytest.mark.parametrize("key_id", ["", "key_nobody", "digest:0", "keys", "*", "{}", "key\x00\r\n"])
async def test_an_unknown_id_is_unknown_and_reading_it_makes_nothing(
    store: KeyStore, client: Redis, key_id: str
) -> None:
    await insert(store)
    before = await client.dbsize()
    for _ in range(2):
        with pytest.raises(UnknownKey):
            await store.get(key_id)
    with pytest.raises(UnknownKey):
        _ = (await store.snapshot(key_id, "change")).record
    assert await client.dbsize() == before


async def test_all_that_a_key_owns_lies_in_its_slot(store: KeyStore, client: Redis) -> None:
    key = await insert(store, rate_limits=(RateLimit(name="burst", limit=9, window_s=60),))
    ask = Ask(1, 1, "tiny", Idempotency("name", "f"), (Seal("img_a", bytes(12), None),))
    await store.budgets.settle(await store.budgets.admit(key, Proof(digest_of(key)), ask))
    await store.budgets.refused(key.id, "tiny", "missing-scope", 1)
    names = [str(name) async for name in client.scan_iter(match=f"*{key.id}*")]
    assert len(names) == 7
    assert len({key_slot(name.encode()) for name in names}) == 1


# --- pages


async def test_pages_run_from_the_newest_to_the_oldest_and_hold_each_key_once(store: KeyStore) -> None:
    made = [await insert(store) for _ in range(5)]
    expected = made[::-1]
    assert await store.page(None, 10) == expected
    first = await store.page(None, 2)
    second = await store.page(first[-1].id, 2)
    third = await store.page(second[-1].id, 2)
    assert first + second + third == expected
    assert await store.page(third[-1].id, 2) == []


async def test_keys_that_are_made_at_once_are_each_on_one_page(store: KeyStore) -> None:
    made = {record.id for record in await asyncio.gather(*(insert(store) for _ in range(7)))}
    seen: list[str] = []
    while found := await store.page(seen[-1] if seen else None, 3):
        seen += [record.id for record in found]
    assert len(seen) == 7
    assert set(seen) == made


async def test_a_cursor_that_is_no_key_is_unknown(store: KeyStore) -> None:
    await insert(store)
    with pytest.raises(UnknownKey):
        await store.page("key_nobody", 2)


async def test_an_empty_store_has_an_empty_page(store: KeyStore) -> None:
    assert await store.page(None, 10) == []


# --- the first admin, and the layout


async def test_an_admin_was_made_once_the_first_one_is_inserted_even_if_it_is_revoked(store: KeyStore) -> None:
    await insert(store)
    assert not await store.has_admin()
    admin = await insert(store, kind="admin")
    assert await store.has_admin()
    await change(store, admin, state="revoked")
    assert await store.has_admin()


@pytest.mark.parametrize("layout", [None, "1", "2"])
async def test_a_store_of_another_layout_is_refused(store: KeyStore, client: Redis, layout: str | None) -> None:
    await insert(store, kind="admin")
    if layout is None:
        await client.delete("sdb:layout")
    else:
        await client.set("sdb:layout", layout)
    with pytest.raises(ConfigurationError, match="earlier version"):
        await store.has_admin()


# --- changes


async def test_a_change_is_made_only_if_neither_the_key_nor_the_log_has_moved(store: KeyStore) -> None:
    record, other = await insert(store, 10), await insert(store, 10)
    more = Change(top_up(record.id, 1), ledger=("top-up", 1))
    planned = await store.snapshot(record.id, "late")
    await change(store, other, name="the log moves")
    assert await store.commit(record.id, planned, more, LOGGED) is None
    planned = await store.snapshot(record.id, "late")
    assert await store.image_keys.reseal(record.id, "img_nobody", "", "") is False
    await change(store, record, name="both move")
    assert await store.commit(record.id, planned, more, LOGGED) is None
    assert (await store.get(record.id)).budget.granted == 0
    assert await store.commit(record.id, await store.snapshot(record.id, "late"), more, LOGGED) == "result"
    assert (await store.get(record.id)).budget.granted == 1


async def test_a_change_of_a_name_is_made_once_and_gives_the_same_ever_after(store: KeyStore) -> None:
    """A client that has lost the reply sends the very same again."""
    record = await insert(store, 10)
    planned, more = await store.snapshot(record.id, "name"), Change(top_up(record.id, 5), ledger=("top-up", 5))
    assert [await store.commit(record.id, planned, more, LOGGED) for _ in range(3)] == ["result"] * 3
    later = Logged("another entry", "another head", "name", "another result", 60)
    assert await store.commit(record.id, await store.snapshot(record.id, "name"), more, later) == "result"
    assert (await store.get(record.id)).budget.granted == 5
    assert [line.kind for line in await store.budgets.ledger(record.id, 10)] == ["top-up"]
    assert (await store.entries_after("0-0", 10))[1] == "head"
    assert (await store.snapshot(record.id, "name")).done == "result"


async def test_of_twenty_changes_planned_on_one_snapshot_one_is_made(store: KeyStore) -> None:
    record = await insert(store, 10)
    planned = await store.snapshot(record.id, "")
    calls = [
        store.commit(record.id, planned, Change(top_up(record.id, 1)), Logged("e", "h", f"{n}", "made", 60))
        for n in range(20)
    ]
    assert sorted(await asyncio.gather(*calls), key=str) == [None] * 19 + ["made"]
    assert (await store.get(record.id)).budget.granted == 1


async def test_a_change_leaves_charges_alone_that_come_after_it_was_planned(store: KeyStore) -> None:
    record = await insert(store, 10)
    planned = await store.snapshot(record.id, "")
    await store.budgets.admit(record, Proof(digest_of(record)), Ask(4, 4, "tiny"))
    new = record.model_copy(update={"revision": 1, "budget": Budget(limit=6, remaining=6)})
    assert await store.commit(record.id, planned, Change(replacement(record, new)), LOGGED) == "result"
    assert (await store.get(record.id)).budget.remaining == 2


async def test_a_retired_digest_finds_the_key_until_its_time_is_over(store: KeyStore, client: Redis) -> None:
    record = await insert(store)
    await _rotate(store, record, "a" * 64, 60)
    assert {(await store.find([digest]))[0].revision for digest in (digest_of(record), "a" * 64)} == {1}
    await client.hset(f"sdb:{{{record.id}}}", f"digest:{digest_of(record)}", str(int(1000 * time.time())))
    with pytest.raises(InvalidCredential):
        await store.find([digest_of(record)])
    await _rotate(store, record, "b" * 64, 0)
    assert (await store.find(["b" * 64]))[0].revision == 2
    for digest in (digest_of(record), "a" * 64):
        assert not await client.exists(f"sdb:digest:{digest}"), "nothing is left of it"
        assert not await client.hexists(f"sdb:{{{record.id}}}", f"digest:{digest}")


async def _rotate(store: KeyStore, record: KeyRecord, digest: str, overlap_s: int) -> None:
    await commit(
        store,
        record.id,
        lambda snapshot: Change(
            rotation(
                snapshot.fields,
                snapshot.record.model_copy(update={"revision": snapshot.record.revision + 1}),
                digest,
                snapshot.now,
                overlap_s,
            )
        ),
    )


# --- filing under a new master key


async def test_a_key_that_is_filed_again_is_found_by_either_digest(store: KeyStore) -> None:
    record = await insert(store)
    await store.refile(record.id, ["a" * 64, "b" * 64, digest_of(record)], "new")
    for digest in ("a" * 64, digest_of(record)):
        assert (await store.find([digest]))[0].master == "new"
    with pytest.raises(InvalidCredential):
        await store.find(["b" * 64])


async def test_an_api_key_that_was_replaced_is_not_filed_again(store: KeyStore) -> None:
    record = await insert(store)
    await _rotate(store, record, "a" * 64, 0)
    await store.refile(record.id, ["c" * 64, digest_of(record)], "new")
    with pytest.raises(InvalidCredential):
        await store.find(["c" * 64])
    assert (await store.get(record.id)).master == record.master


async def test_an_api_key_in_its_overlap_ends_under_the_new_master_key_as_under_the_old(
    store: KeyStore, client: Redis
) -> None:
    record = await insert(store)
    await _rotate(store, record, "a" * 64, 60)
    await store.refile(record.id, ["c" * 64, digest_of(record)], "new")
    ends = await client.hmget(f"sdb:{{{record.id}}}", [f"digest:{'c' * 64}", f"digest:{digest_of(record)}"])
    assert ends[0] == ends[1] != ""
    assert (await store.get(record.id)).master == record.master, "its successor still needs the old master key"


async def test_a_rotation_that_did_not_see_a_digest_filed_is_planned_anew(store: KeyStore) -> None:
    """Or the replaced API key would be good for ever, under the new master key."""
    record = await insert(store)
    planned = await store.snapshot(record.id, "")
    await store.refile(record.id, ["c" * 64, digest_of(record)], "new")
    new = record.model_copy(update={"revision": record.revision + 1})
    rotated = Change(rotation(planned.fields, new, "a" * 64, planned.now, 0))
    assert await store.commit(record.id, planned, rotated, LOGGED) is None


async def test_an_api_key_that_is_replaced_while_it_is_filed_is_gone(store: KeyStore) -> None:
    """Whichever of the two comes first."""
    for number in range(20):
        record, digests = await insert(store), [f"{number:064x}", f"a{number:063x}"]
        await asyncio.gather(
            store.refile(record.id, [digests[0], digest_of(record)], "new"), _rotate(store, record, digests[1], 0)
        )
        assert (await store.find([digests[1]]))[0].id == record.id
        for digest in (digests[0], digest_of(record)):
            with pytest.raises(InvalidCredential):
                await store.find([digest])


# --- what the store must not know


async def _content(client: Redis, name: str) -> tuple[str, object]:
    """A key of the store with all that is in it."""
    match await client.type(name):
        case "string":
            return name, await client.get(name)
        case "hash":
            return name, await client.hgetall(name)
        case "set":
            return name, await client.smembers(name)
        case "zset":
            return name, await client.zrange(name, 0, -1, withscores=True)
        case "stream":
            return name, await client.xrange(name)
        case "list":
            return name, await client.lrange(name, 0, -1)
        case other:
            raise AssertionError(f"{name} is a {other!r}")


async def test_nothing_in_the_store_contains_a_secret(client: Redis, clock: Clock) -> None:
    service = another_service(client, clock)
    grant = KeyGrant(name="partner", scopes=frozenset({"distill", "decrypt"}), image_key=ImageKeyGrant(scheme="sealed"))
    act = Act("cli", idempotency_key="again")
    issued = await service.lifecycle.create(grant, act)
    token = service.tokens.issue(issued.record, None).token
    for credential in (issued.api_key, token):
        admission = await service.admit(
            await service.authenticate(credential), Ask(2, 2, "tiny", Idempotency("name", "f"))
        )
        if not admission.replayed:
            await service.settle(admission)
    admin = await service.lifecycle.create(KeyGrant(name="admin"), ADMIN, "admin")
    session = await service.sessions.start(admin.record, NOBODY)
    image_key = await service.image_keys.issue(issued.record.id, ImageKeyGrant(scheme="sealed"), 60, ADMIN)
    rotated = await service.lifecycle.rotate(issued.record.id, 60, Act("cli", idempotency_key="rotation"))
    await another_service(client, clock, [NEXT_MASTER, MASTER]).authenticate(rotated.api_key)
    await service.tokens.revoke(admin.record, token, ADMIN)
    tracing = await service.tracing.newest()
    content = [await _content(client, str(name)) async for name in client.scan_iter()]
    dump = repr(content)
    assert issued.record.id in dump, "the dump is of this store"
    assert "token.revoke" in dump, "and has its log"
    for secret in (issued.api_key, admin.api_key, rotated.api_key):
        assert check_api_key(secret)
        assert secret not in dump
        assert secret[8:40] not in dump
    assert token.rpartition(".")[2] not in dump
    assert session not in dump
    assert issued.image_key is not None
    for image_secret in (issued.image_key.secret, image_key.secret, tracing.secret, MASTER, NEXT_MASTER):
        assert to_text(image_secret) not in dump
        assert image_secret.hex() not in dump


# --- a store that is gone

CALLS: dict[str, Callable[[KeyStore, KeyRecord], Awaitable[object]]] = {
    "ping": lambda store, _: store.ping(),
    "first_key": lambda store, _: store.first_key(),
    "find": lambda store, record: store.find([digest_of(record)]),
    "get": lambda store, record: store.get(record.id),
    "refile": lambda store, record: store.refile(record.id, ["0" * 64, digest_of(record)], "5f0c"),
    "page": lambda store, _: store.page(None, 10),
    "has_admin": lambda store, _: store.has_admin(),
    "snapshot": lambda store, record: store.snapshot(record.id, "name"),
    "entries": lambda store, _: store.entries(10),
    "entries_after": lambda store, _: store.entries_after("0-0", 10),
    "commit": lambda store, record: store.commit(record.id, NOTHING, Change([]), LOGGED),
    "reseal_tracing": lambda store, _: store.reseal_tracing(1, "", ""),
}


def test_the_outage_test_calls_every_method() -> None:
    """But for the end of the store, and the wait for replicas, which this one has not."""
    assert {name for name in vars(KeyStore) if not name.startswith("_")} == set(CALLS) | {"close", "heard"}


async def test_without_its_server_every_method_says_so_and_with_it_all_is_as_before(
    serve: Serve, tmp_path: Path
) -> None:
    with serve(tmp_path) as url:
        store = KeyStore(connect(url))
        record, other = await insert(store, 10), await insert(store, 10)
        await change(store, record, name="renamed")
        pages = await store.page(None, 10)
    async with AsyncExitStack() as leaving:
        leaving.push_async_callback(store.close)
        outcomes = await asyncio.gather(*(call(store, record) for call in CALLS.values()), return_exceptions=True)
        assert {name: type(outcome) for name, outcome in zip(CALLS, outcomes, strict=True)} == dict.fromkeys(
            CALLS, StoreUnavailable
        )
        with serve(tmp_path):
            await asyncio.sleep(LOOKED_FOR_EVERY_S)
            assert await store.page(None, 10) == pages
            assert (await change(store, other, state="revoked")).state == "revoked"


# --- the address


@pytest.mark.parametrize(
    "address",
    [
        "",
        "localhost:6379",
        "http://:hunter2@host",
        "redis://:hunter2@host:port",
        "redis://:hunter2@host:99999",
        "redis://:hunter2@[::1",
        "redis://:hunter2@host?db=first",
        "redis+sentinel://:hunter2@/service",
        "redis+sentinel://:hunter2@host:26379",
        "redis+sentinel://:hunter2@host:26379/",
        "redis+sentinel://:hunter2@host/service",
        "redis+sentinel://:hunter2@host:26379,other/service",
        "redis+sentinel://:hunter2@host:26379/service/first",
    ],
)
def test_an_address_that_cannot_be_used_is_refused_without_showing_its_password(address: str) -> None:
    with pytest.raises(ConfigurationError, match="SDB_REDIS_URL") as refusal:
        connect(address)
    assert "hunter2" not in str(refusal.value)


@pytest.mark.parametrize("address", ["redis://host", "redis://u:p@host:7/3", "rediss://host:1", "unix:///a/b?db=3"])
def test_an_address_is_taken_without_asking_anything_of_it(address: str) -> None:
    assert isinstance(connect(address), Redis)


def test_each_part_of_a_sentinel_address_is_read() -> None:
    pool = connect("redis+sentinel://:hunter2@one:26379,[2001:db8::2]:26380/service/3").connection_pool
    assert isinstance(pool, SentinelConnectionPool)
    assert (pool.connection_kwargs["db"], pool.connection_kwargs["password"]) == (3, "hunter2")
    assert pool.service_name == "service"
    hosts = [sentinel.connection_pool.connection_kwargs for sentinel in pool.sentinel_manager.sentinels]
    assert [(host["host"], host["port"]) for host in hosts] == [("one", 26379), ("2001:db8::2", 26380)]
