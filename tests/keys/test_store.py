"""Keys and budgets in a real store: the embedded Valkey, and redis-server where the machine has one."""

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.asyncio.sentinel import SentinelConnectionPool

from keys.connection import SCRIPTS, connect
from keys.errors import ConfigurationError, InvalidCredential, QuotaExceeded, StoreUnavailable, UnknownKey
from keys.image_keys import ImageKeyGrant
from keys.material import Keyring, Vault, check_api_key, to_text
from keys.records import MAX_BUDGET, Budget, Hold, KeyGrant, KeyRecord, instant
from keys.service import KeyService
from keys.store import KeyStore
from keys.tokens import TokenMint
from tests.keys.conftest import NOON, Serve, a_record, digest_of, insert


async def remaining(store: KeyStore, record: KeyRecord) -> int | None:
    return (await store.get(record.id)).budget.remaining


async def charge_by_script(client: Redis, record: KeyRecord, count: int, member: str, life_ms: int) -> list[str]:
    """What the store sends, with a hold member and a life of the test's choice."""
    script = client.register_script((SCRIPTS / "charge.lua").read_text())
    names = [f"sdb:{{{record.id}}}", f"sdb:{{{record.id}}}:holds"]
    verdict: list[str] = await script(keys=names, args=[record.epoch, count, member, life_ms])
    return verdict


# --- records


RECORDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "unlimited": {"limit": None},
    "no budget": {"limit": 0},
    "greatest budget": {"limit": MAX_BUDGET},
    "expiring": {"expires_at": NOON + timedelta(days=365)},
    "expiring in the far future": {"expires_at": datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)},
    "admin": {"kind": "admin", "scopes": (), "metadata": {}},
    "disabled": {"state": "disabled", "epoch": 7},
}


@pytest.mark.parametrize("changes", RECORDS.values(), ids=RECORDS.keys())
async def test_a_key_is_got_and_found_as_it_was_inserted(store: KeyStore, changes: dict[str, Any]) -> None:
    record = await insert(store, **changes)
    assert await store.get(record.id) == record
    assert await store.find([digest_of(record)]) == record


async def test_a_key_is_found_under_any_of_the_digests_of_a_rotated_master_key(store: KeyStore) -> None:
    record = await insert(store)
    assert await store.find(["0" * 64, digest_of(record)]) == record


async def test_an_unknown_digest_is_an_invalid_credential(store: KeyStore) -> None:
    record = await insert(store)
    for digests in ([], ["0" * 64], [record.id], ["0" * 64, "1" * 64]):
        with pytest.raises(InvalidCredential):
            await store.find(digests)


@pytest.mark.parametrize("key_id", ["", "key_nobody", "digest:0", "keys", "*", "{}", "key\x00\r\n"])
async def test_an_unknown_id_is_unknown_to_get_and_revoke(store: KeyStore, key_id: str) -> None:
    await insert(store)
    with pytest.raises(UnknownKey):
        await store.get(key_id)
    with pytest.raises(UnknownKey):
        await store.revoke(key_id)
    with pytest.raises(UnknownKey):
        await store.get(key_id)


async def test_pages_run_from_the_newest_to_the_oldest_and_hold_each_key_once(store: KeyStore) -> None:
    made = [await insert(store) for _ in range(5)]
    expected = made[::-1]
    assert await store.page(None, 10) == expected
    first = await store.page(None, 2)
    second = await store.page(first[-1].id, 2)
    third = await store.page(second[-1].id, 2)
    assert first + second + third == expected
    assert await store.page(third[-1].id, 2) == []


async def test_pages_hold_keys_of_the_same_second_once(store: KeyStore) -> None:
    made = {(await insert(store)).id for _ in range(7)}
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


async def test_an_admin_was_made_once_the_first_one_is_inserted_even_if_it_is_revoked(store: KeyStore) -> None:
    await insert(store)
    assert not await store.has_admin()
    admin = await insert(store, kind="admin")
    assert await store.has_admin()
    await store.revoke(admin.id)
    assert await store.has_admin()


async def test_revoking_is_final_idempotent_and_changes_the_epoch_once(store: KeyStore) -> None:
    record = await insert(store)
    await asyncio.gather(*(store.revoke(record.id) for _ in range(10)))
    expected = record.model_copy(update={"state": "revoked", "epoch": 1})
    assert await store.get(record.id) == expected
    await store.revoke(record.id)
    assert await store.get(record.id) == expected
    assert await store.find([digest_of(record)]) == expected


async def test_revoking_a_key_leaves_the_others_alone(store: KeyStore) -> None:
    one, other = await insert(store), await insert(store)
    await store.revoke(one.id)
    assert await store.get(other.id) == other


# --- budgets


async def test_two_hundred_charges_at_once_on_a_budget_of_fifty_hold_exactly_fifty(store: KeyStore) -> None:
    record = await insert(store, 50)
    outcomes = await asyncio.gather(*(store.charge(record, 1) for _ in range(200)), return_exceptions=True)
    held = [outcome for outcome in outcomes if isinstance(outcome, Hold)]
    refused = [outcome for outcome in outcomes if isinstance(outcome, QuotaExceeded)]
    assert (len(held), len(refused)) == (50, 150), {type(outcome) for outcome in outcomes}
    assert sorted(hold.budget.remaining or 0 for hold in held) == list(range(50))
    assert len({hold.member for hold in held}) == 50
    assert await remaining(store, record) == 0


async def test_charges_from_several_clients_at_once_hold_exactly_the_budget(url: str) -> None:
    async with connect(url) as one, connect(url) as two, connect(url) as three:
        stores = [KeyStore(client) for client in (one, two, three)]
        record = await insert(stores[0], 50)
        calls = (stores[turn % 3].charge(record, 1 + turn % 3) for turn in range(200))
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        held = [outcome.count for outcome in outcomes if isinstance(outcome, Hold)]
        assert {type(outcome) for outcome in outcomes} == {Hold, QuotaExceeded}
        assert sum(held) == 50
        assert await remaining(stores[0], record) == 0


async def test_a_charge_beyond_what_is_left_charges_nothing_and_says_what_is_left(store: KeyStore) -> None:
    record = await insert(store, 10)
    assert (await store.charge(record, 7)).budget == Budget(limit=10, remaining=3)
    with pytest.raises(QuotaExceeded) as refusal:
        await store.charge(record, 4)
    assert (refusal.value.limit, refusal.value.remaining) == (10, 3)
    assert await remaining(store, record) == 3
    assert (await store.charge(record, 3)).budget.remaining == 0


async def test_the_greatest_budget_is_counted_exactly(store: KeyStore) -> None:
    record = await insert(store, MAX_BUDGET)
    assert (await store.charge(record, 1)).budget == Budget(limit=MAX_BUDGET, remaining=MAX_BUDGET - 1)
    await store.charge(record, MAX_BUDGET - 2)
    assert await remaining(store, record) == 1
    with pytest.raises(QuotaExceeded):
        await store.charge(record, 2)


async def test_a_budget_of_nothing_gives_nothing(store: KeyStore) -> None:
    record = await insert(store, 0)
    with pytest.raises(QuotaExceeded):
        await store.charge(record, 1)


async def test_an_unlimited_budget_is_never_spent(store: KeyStore) -> None:
    record = await insert(store, None)
    for _ in range(3):
        hold = await store.charge(record, 10**9)
        assert hold.budget == Budget(limit=None, remaining=None)
    await store.release(hold)
    assert await remaining(store, record) is None


async def test_a_release_gives_back_exactly_once(store: KeyStore) -> None:
    record = await insert(store, 10)
    kept, given_back = await store.charge(record, 2), await store.charge(record, 3)
    await asyncio.gather(*(store.release(given_back) for _ in range(5)))
    await store.release(given_back)
    assert await remaining(store, record) == 8
    await store.release(kept)
    assert await remaining(store, record) == 10


async def test_a_settled_charge_is_final(store: KeyStore) -> None:
    record = await insert(store, 10)
    hold = await store.charge(record, 3)
    await store.settle(hold)
    await store.release(hold)
    assert await remaining(store, record) == 7


async def test_a_charge_that_was_given_back_cannot_be_settled(store: KeyStore, client: Redis) -> None:
    """Or two answers could leave for one part of the budget."""
    record = await insert(store, 10)
    await charge_by_script(client, record, 10, "late:10", 1)
    await asyncio.sleep(0.02)
    kept = await store.charge(record, 10)
    with pytest.raises(StoreUnavailable):
        await store.settle(Hold(record.id, "late:10", 10, record.budget))
    await store.settle(kept)
    assert await remaining(store, record) == 0


async def insert_with_holds(store: KeyStore, client: Redis) -> KeyRecord:
    """A key with a budget of 10: 6 held until just now, 3 held for a minute."""
    record = await insert(store, 10)
    await charge_by_script(client, record, 6, "late:6", 1)
    await charge_by_script(client, record, 3, "live:3", 60_000)
    await asyncio.sleep(0.02)
    return record


async def test_an_expired_hold_counts_as_given_back_without_a_further_charge(store: KeyStore, client: Redis) -> None:
    record = await insert_with_holds(store, client)
    assert await remaining(store, record) == 7
    assert [key.budget.remaining for key in await store.page(None, 10)] == [7]


async def test_a_charge_asked_for_again_with_its_member_is_charged_once(store: KeyStore, client: Redis) -> None:
    record = await insert(store, 10)
    for _ in range(3):
        assert await charge_by_script(client, record, 10, "abc:10", 60_000) == ["held", "10", "0"]
    assert await remaining(store, record) == 0


async def test_an_expired_hold_is_given_back_by_the_next_charge_and_only_once(store: KeyStore, client: Redis) -> None:
    record = await insert_with_holds(store, client)
    assert (await store.charge(record, 7)).budget.remaining == 0
    await store.release(Hold(record.id, "late:6", 6, record.budget))
    assert await remaining(store, record) == 0


async def test_a_settled_charge_does_not_expire(store: KeyStore, client: Redis) -> None:
    record = await insert(store, 10)
    await charge_by_script(client, record, 6, "done:6", 20)
    await store.settle(Hold(record.id, "done:6", 6, record.budget))
    await asyncio.sleep(0.04)
    assert (await store.charge(record, 1)).budget.remaining == 3


async def test_one_key_does_not_spend_the_budget_of_another(store: KeyStore) -> None:
    one, other = await insert(store, 10), await insert(store, 10)
    await store.charge(one, 10)
    assert await remaining(store, other) == 10


@pytest.mark.parametrize("changes", [{"state": "disabled"}, {"state": "revoked"}, {"expires_at": NOON}])
async def test_a_key_that_is_not_usable_charges_nothing(store: KeyStore, changes: dict[str, Any]) -> None:
    record = await insert(store, 10, **changes)
    with pytest.raises(InvalidCredential):
        await store.charge(record, 1)
    assert await remaining(store, record) == 10


async def test_a_key_with_time_left_charges(store: KeyStore) -> None:
    record = await insert(store, 10, expires_at=instant(time.time() + 60))
    assert (await store.charge(record, 1)).budget.remaining == 9


async def test_a_key_that_was_revoked_or_rotated_since_it_was_read_charges_nothing(store: KeyStore) -> None:
    record = await insert(store, 10)
    with pytest.raises(InvalidCredential):
        await store.charge(record.model_copy(update={"epoch": 1}), 1)
    await store.revoke(record.id)
    for epoch in (0, 1):
        with pytest.raises(InvalidCredential):
            await store.charge(record.model_copy(update={"epoch": epoch}), 1)
    assert await remaining(store, record) == 10


async def test_a_key_that_is_not_in_the_store_charges_nothing(store: KeyStore, client: Redis) -> None:
    with pytest.raises(InvalidCredential):
        await store.charge(a_record(), 1)
    assert await client.dbsize() == 0


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
        case other:
            raise AssertionError(f"{name} is a {other!r}")


async def test_nothing_in_the_store_contains_an_api_key(store: KeyStore, client: Redis) -> None:
    ring = Keyring([hashlib.sha256(b"master").digest()])
    service = KeyService(store, Vault(ring), TokenMint(ring, 900, time.time), time.time)
    grant = KeyGrant(name="partner", scopes=frozenset({"distill", "decrypt"}), image_key=ImageKeyGrant(scheme="sealed"))
    issued = await service.create(grant)
    record, api_key = issued.record, issued.api_key
    token, _, _ = await service.token(record.id, api_key, None)
    await service.charge(await service.authenticate(api_key), 2)
    await service.charge(await service.authenticate(token), 2)
    admin_key = (await service.create(KeyGrant(name="admin"), "admin")).api_key
    content = [await _content(client, str(name)) async for name in client.scan_iter()]
    dump = repr(content)
    assert record.id in dump, "the dump is of this store"
    for secret in (api_key, admin_key):
        assert check_api_key(secret)
        assert secret not in dump
        assert secret[8:40] not in dump
    assert token.rpartition(".")[2] not in dump
    assert issued.image_key is not None
    assert to_text(issued.image_key.secret) not in dump


# --- a store that is gone

CALLS: dict[str, Callable[[KeyStore, KeyRecord, Hold], Awaitable[object]]] = {
    "ping": lambda store, *_: store.ping(),
    "insert": lambda store, *_: store.insert(a_record(), "0" * 64),
    "find": lambda store, record, _: store.find([digest_of(record)]),
    "get": lambda store, record, _: store.get(record.id),
    "refile": lambda store, record, _: store.refile(record, [digest_of(record)], "5f0c"),
    "page": lambda store, *_: store.page(None, 10),
    "has_admin": lambda store, *_: store.has_admin(),
    "revoke": lambda store, record, _: store.revoke(record.id),
    "charge": lambda store, record, _: store.charge(record, 1),
    "settle": lambda store, _, hold: store.settle(hold),
    "release": lambda store, _, hold: store.release(hold),
}


def test_the_outage_test_calls_every_method() -> None:
    assert {name for name in vars(KeyStore) if not name.startswith("_")} - {"close"} == set(CALLS)


async def test_without_its_server_every_method_says_so_and_with_it_all_is_as_before(
    serve: Serve, tmp_path: Path
) -> None:
    with serve(tmp_path) as url:
        store = KeyStore(connect(url))
        record = await insert(store, 10)
        hold, settled = await store.charge(record, 2), await store.charge(record, 3)
        await store.settle(settled)
    async with AsyncExitStack() as leaving:
        leaving.push_async_callback(store.close)
        outcomes = await asyncio.gather(*(call(store, record, hold) for call in CALLS.values()), return_exceptions=True)
        assert {name: type(outcome) for name, outcome in zip(CALLS, outcomes, strict=True)} == dict.fromkeys(
            CALLS, StoreUnavailable
        )
        with serve(tmp_path):
            assert await remaining(store, record) == 5
            assert (await store.charge(record, 1)).budget.remaining == 4
            await store.release(hold)
            assert await remaining(store, record) == 6
            await store.revoke(record.id)


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
    pool = connect("redis+sentinel://:hunter2@one:26379,two:26380/service/3").connection_pool
    assert isinstance(pool, SentinelConnectionPool)
    assert (pool.connection_kwargs["db"], pool.connection_kwargs["password"]) == (3, "hunter2")
    assert pool.service_name == "service"
    hosts = [sentinel.connection_pool.connection_kwargs for sentinel in pool.sentinel_manager.sentinels]
    assert [(host["host"], host["port"]) for host in hosts] == [("one", 26379), ("two", 26380)]
