"""A request that comes again under its name is charged once, and answered once more."""

import asyncio

import pytest
from redis.asyncio import Redis

from keys.errors import IdempotencyInProgress, IdempotencyMismatch, QuotaExceeded, StoreUnavailable
from keys.layout import hash_of
from keys.records import Budget, Idempotency, KeyRecord
from keys.store import KeyStore
from tests.keys.conftest import charge, insert, let_lapse


async def remaining(store: KeyStore, record: KeyRecord) -> int | None:
    return (await store.get(record.id)).budget.remaining


async def test_a_request_that_was_answered_is_answered_again_without_a_charge(store: KeyStore) -> None:
    record, named = await insert(store, 10), Idempotency("name", "0f")
    await store.budgets.settle(await charge(store, record, 4, named))
    for _ in range(3):
        again = await charge(store, record, 4, named)
        assert (again.replayed, again.charge, again.images) == (True, 0, 4)
        assert again.budget == Budget(limit=10, remaining=6)
        await store.budgets.settle(again)
        await store.budgets.release(again)
    assert await remaining(store, record) == 6


async def test_a_request_that_was_answered_is_answered_again_when_the_budget_is_spent(store: KeyStore) -> None:
    record, named = await insert(store, 4), Idempotency("name", "0f")
    await store.budgets.settle(await charge(store, record, 4, named))
    assert (await charge(store, record, 4, named)).replayed


async def test_a_request_that_is_not_answered_yet_is_in_progress(store: KeyStore) -> None:
    record, named = await insert(store, 10), Idempotency("name", "0f")
    await charge(store, record, 4, named)
    with pytest.raises(IdempotencyInProgress):
        await charge(store, record, 4, named)
    assert await remaining(store, record) == 6


@pytest.mark.parametrize("settled", [True, False])
async def test_a_name_that_came_with_another_request_is_refused(store: KeyStore, settled: bool) -> None:
    record = await insert(store, 10)
    admission = await charge(store, record, 4, Idempotency("name", "0f"))
    if settled:
        await store.budgets.settle(admission)
    with pytest.raises(IdempotencyMismatch):
        await charge(store, record, 4, Idempotency("name", "0e"))
    assert await remaining(store, record) == 6


@pytest.mark.parametrize("how", ["release", "lapse"])
async def test_a_request_that_was_not_answered_is_charged_anew(store: KeyStore, client: Redis, how: str) -> None:
    record = await insert(store, 10)
    first = await charge(store, record, 4, Idempotency("name", "0f"))
    if how == "release":
        await store.budgets.release(first)
        second = await charge(store, record, 3, Idempotency("name", "0e"))
    else:
        await let_lapse(client, first)
        second = await charge(store, record, 3, Idempotency("name", "0f"))
    assert not second.replayed
    await store.budgets.release(first)
    with pytest.raises(StoreUnavailable):
        await store.budgets.settle(first)
    with pytest.raises(IdempotencyInProgress):
        await charge(store, record, 3, second.idempotency)
    await store.budgets.settle(second)
    assert (await charge(store, record, 3, second.idempotency)).replayed
    assert await remaining(store, record) == 7


async def test_a_request_that_was_refused_leaves_its_name_free(store: KeyStore) -> None:
    record = await insert(store, 3)
    with pytest.raises(QuotaExceeded):
        await charge(store, record, 4, Idempotency("name", "0f"))
    assert not (await charge(store, record, 3, Idempotency("name", "0e"))).replayed


async def test_of_fifty_requests_of_one_name_at_once_one_is_charged(store: KeyStore) -> None:
    record, named = await insert(store, 10), Idempotency("name", "0f")
    calls = (charge(store, record, 1, named) for _ in range(50))
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Admission"] + ["IdempotencyInProgress"] * 49
    assert await remaining(store, record) == 9


async def test_two_keys_that_give_one_name_do_not_meet(store: KeyStore) -> None:
    for record in (await insert(store, 10), await insert(store, 10)):
        assert not (await charge(store, record, 1, Idempotency("name", f"{record.id[-4:]}"))).replayed


async def test_a_name_is_known_for_a_day_from_the_charge(store: KeyStore, client: Redis) -> None:
    record, named = await insert(store, 10), Idempotency("name", "0f")
    admission = await charge(store, record, 4, named)
    for _ in range(2):
        assert 86_395 < await client.ttl(f"{hash_of(record.id)}:request:name") <= 86_400
        await store.budgets.settle(admission)
