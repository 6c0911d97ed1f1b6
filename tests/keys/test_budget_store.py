"""Charges in a real store: exact, held, final or given back, charged once however often asked for, and written down.

Requests with a name are in test_idempotency.py, rate limits in test_rate_limits.py, refills in test_refills.py, and
what is counted in test_usage.py.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from keys.budget_store import Ask, BudgetStore
from keys.connection import connect
from keys.errors import (
    InvalidCredential,
    KeyChanged,
    QuotaExceeded,
    StoreUnavailable,
)
from keys.layout import BURIED_LIFE_S, burial, buried, hash_of
from keys.pipelines import LOOKED_FOR_EVERY_S
from keys.records import MAX_BUDGET, Admission, Budget, KeyRecord, Proof, RateLimit, instant
from keys.scripting import Scripts
from keys.store import Change, KeyStore
from tests.keys.conftest import (
    MODEL,
    NOON,
    Serve,
    a_record,
    change,
    charge,
    commit,
    digest_of,
    grant,
    insert,
    let_lapse,
)

HOLD_LIFE_S = 120


async def remaining(store: KeyStore, record: KeyRecord) -> int | None:
    return (await store.get(record.id)).budget.remaining


# --- exactly the budget


async def test_two_hundred_charges_at_once_on_a_budget_of_fifty_hold_exactly_fifty(store: KeyStore) -> None:
    record = await insert(store, 50)
    outcomes = await asyncio.gather(*(charge(store, record, 1) for _ in range(200)), return_exceptions=True)
    held = [outcome for outcome in outcomes if isinstance(outcome, Admission)]
    refused = [outcome for outcome in outcomes if isinstance(outcome, QuotaExceeded)]
    assert (len(held), len(refused)) == (50, 150), {type(outcome) for outcome in outcomes}
    assert sorted(admission.budget.remaining or 0 for admission in held) == list(range(50))
    assert len({admission.hold for admission in held}) == 50
    assert [refusal.first for refusal in refused].count(True) == 1, "one is logged"
    assert await remaining(store, record) == 0


async def test_charges_from_several_clients_at_once_hold_exactly_the_budget(url: str) -> None:
    async with connect(url) as one, connect(url) as two, connect(url) as three:
        stores = [KeyStore(client) for client in (one, two, three)]
        record = await insert(stores[0], 50)
        calls = (charge(stores[turn % 3], record, 1 + turn % 3) for turn in range(200))
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        held = [outcome.charge for outcome in outcomes if isinstance(outcome, Admission)]
        assert {type(outcome) for outcome in outcomes} == {Admission, QuotaExceeded}
        assert sum(held) == 50
        assert await remaining(stores[0], record) == 0


async def test_a_charge_beyond_what_is_left_charges_nothing_and_says_what_is_left(store: KeyStore) -> None:
    record = await insert(store, 10)
    assert (await charge(store, record, 7)).budget == Budget(limit=10, remaining=3)
    with pytest.raises(QuotaExceeded) as refusal:
        await charge(store, record, 4)
    assert (refusal.value.limit, refusal.value.remaining, refusal.value.resets_at) == (10, 3, None)
    assert await remaining(store, record) == 3
    assert (await charge(store, record, 3)).budget.remaining == 0


async def test_the_greatest_budget_is_counted_exactly(store: KeyStore) -> None:
    record = await insert(store, MAX_BUDGET)
    assert (await charge(store, record, 1)).budget == Budget(limit=MAX_BUDGET, remaining=MAX_BUDGET - 1)
    most = await charge(store, record, MAX_BUDGET - 2)
    assert await remaining(store, record) == 1
    with pytest.raises(QuotaExceeded):
        await charge(store, record, 2)
    await store.budgets.release(most)
    assert await remaining(store, record) == MAX_BUDGET - 1
    ledger = await store.budgets.ledger(record.id, 10)
    assert [line.count for line in ledger] == [1, MAX_BUDGET - 2, -(MAX_BUDGET - 2)]
    assert [line.used for line in ledger] == [1, MAX_BUDGET - 1, 1]


async def test_the_greatest_grant_is_counted_exactly(store: KeyStore) -> None:
    record = await insert(store, 0)
    await grant(store, record, MAX_BUDGET)
    most = await charge(store, record, MAX_BUDGET - 1)
    assert most.budget == Budget(limit=0, remaining=1, granted=1)
    await store.budgets.release(most)
    assert (await store.get(record.id)).budget == Budget(limit=0, remaining=MAX_BUDGET, granted=MAX_BUDGET)


async def test_a_budget_of_nothing_gives_nothing(store: KeyStore) -> None:
    record = await insert(store, 0)
    with pytest.raises(QuotaExceeded):
        await charge(store, record, 1)


async def test_an_unlimited_budget_is_never_spent(store: KeyStore) -> None:
    record = await insert(store, None)
    for _ in range(3):
        admission = await charge(store, record, 10**9)
        assert admission.budget == Budget(limit=None, remaining=None)
    await store.budgets.release(admission)
    assert await remaining(store, record) is None


async def test_one_key_does_not_spend_the_budget_of_another(store: KeyStore) -> None:
    one, other = await insert(store, 10), await insert(store, 10)
    await charge(store, one, 10)
    assert await remaining(store, other) == 10


async def test_the_limit_is_spent_before_the_grants(store: KeyStore) -> None:
    record = await insert(store, 10)
    await grant(store, record, 5)
    assert (await store.get(record.id)).budget == Budget(limit=10, remaining=15, granted=5)
    assert (await charge(store, record, 9)).budget == Budget(limit=10, remaining=6, granted=5)
    both = await charge(store, record, 3)
    assert both.budget == Budget(limit=10, remaining=3, granted=3)
    with pytest.raises(QuotaExceeded) as refusal:
        await charge(store, record, 4)
    assert refusal.value.remaining == 3
    await store.budgets.release(both)
    assert (await store.get(record.id)).budget == Budget(limit=10, remaining=6, granted=5)


async def test_what_was_taken_of_grants_alone_is_given_back(store: KeyStore, client: Redis) -> None:
    record = await insert(store, 0)
    await grant(store, record, 5)
    released, lapsed = await charge(store, record, 2), await charge(store, record, 3)
    await store.budgets.release(released)
    assert await remaining(store, record) == 2
    await let_lapse(client, lapsed)
    assert await remaining(store, record) == 5


async def test_a_smaller_limit_leaves_nothing_and_a_greater_one_leaves_what_was_not_used(store: KeyStore) -> None:
    record = await insert(store, 10)
    await charge(store, record, 6)
    for limit, left in ((4, 0), (6, 0), (7, 1), (20, 14), (None, None), (10, 4)):
        new = await change(store, record, budget=Budget(limit=limit, remaining=limit))
        assert new.budget == Budget(limit=limit, remaining=left)


# --- who may charge


@pytest.mark.parametrize("changes", [{"state": "disabled"}, {"state": "revoked"}, {"expires_at": NOON}])
async def test_a_key_that_is_not_usable_charges_nothing(store: KeyStore, changes: dict[str, Any]) -> None:
    expired = {"expires_at": instant(time.time() - 1)} if "expires_at" in changes else changes
    record = await insert(store, 10, **expired)
    for proof in (Proof(digest_of(record)), Proof("", record.epoch, "jti", frozenset())):
        with pytest.raises(InvalidCredential):
            await store.budgets.admit(record, proof, Ask(1, 1, MODEL))
    assert await remaining(store, record) == 10


async def test_a_key_with_time_left_charges(store: KeyStore) -> None:
    record = await insert(store, 10, expires_at=instant(time.time() + 60))
    assert (await charge(store, record, 1)).budget.remaining == 9


async def test_a_credential_that_is_good_no_more_charges_nothing(store: KeyStore) -> None:
    record = await insert(store, 10, epoch=3)
    await commit(store, record.id, lambda _: Change(burial(record.id, "dead")))
    good = Proof("", 3, "jti", frozenset())
    for proof in (Proof("0" * 64), Proof("", 2, "jti"), Proof("", 4, "jti"), Proof("", 3, "dead"), Proof(record.id)):
        with pytest.raises(InvalidCredential):
            await store.budgets.admit(record, proof, Ask(1, 1, MODEL))
    assert await remaining(store, record) == 10
    await store.budgets.admit(record, good, Ask(1, 1, MODEL))


async def test_who_has_read_an_older_key_is_told_so_and_charges_nothing(store: KeyStore) -> None:
    record = await insert(store, 10)
    new = await change(store, record, name="renamed")
    for revision in (0, 2):
        with pytest.raises(KeyChanged):
            await charge(store, record.model_copy(update={"revision": revision}), 1)
    assert await remaining(store, record) == 10
    await charge(store, new, 1)


async def test_a_key_that_is_not_in_the_store_charges_nothing(store: KeyStore, client: Redis) -> None:
    with pytest.raises(InvalidCredential):
        await charge(store, a_record(), 1)
    assert await client.dbsize() == 0


async def test_a_buried_token_stays_buried_for_longer_than_it_could_live(store: KeyStore, client: Redis) -> None:
    record = await insert(store)
    await commit(store, record.id, lambda _: Change(burial(record.id, "dead")))
    assert await store.budgets.is_buried(record.id, "dead")
    assert not await store.budgets.is_buried(record.id, "other")
    assert BURIED_LIFE_S - 5 < await client.ttl(buried(record.id, "dead")) <= BURIED_LIFE_S


async def test_a_request_tells_when_its_key_was_used_to_the_minute(store: KeyStore, client: Redis) -> None:
    record = await insert(store)
    await store.budgets.admit(record, Proof(digest_of(record)), Ask(1, 0, MODEL))
    used = (await store.get(record.id)).last_used_at
    assert used is not None
    assert abs(used.timestamp() - time.time()) < 5
    for ago, moves in ((30, False), (61, True)):
        await client.hset(hash_of(record.id), "last_used", str(int(time.time()) - ago))
        before = (await store.get(record.id)).last_used_at
        await charge(store, record, 1)
        assert ((await store.get(record.id)).last_used_at != before) is moves


# --- held, then final or given back


async def test_a_release_gives_back_exactly_once(store: KeyStore) -> None:
    record = await insert(store, 10)
    kept, given_back = await charge(store, record, 2), await charge(store, record, 3)
    await asyncio.gather(*(store.budgets.release(given_back) for _ in range(5)))
    await store.budgets.release(given_back)
    assert await remaining(store, record) == 8
    await store.budgets.release(kept)
    assert await remaining(store, record) == 10


async def test_a_settled_charge_is_final(store: KeyStore, client: Redis) -> None:
    record = await insert(store, 10)
    admission = await charge(store, record, 3)
    await store.budgets.settle(admission)
    await store.budgets.release(admission)
    await let_lapse(client, admission)
    assert await remaining(store, record) == 7


async def test_a_charge_that_is_settled_again_is_settled(store: KeyStore) -> None:
    """Or an answer would be lost with the reply to its settlement."""
    record = await insert(store, 10)
    admission = await charge(store, record, 3)
    for _ in range(3):
        await store.budgets.settle(admission)
        await remaining(store, record)
    assert [bucket.images for bucket in await store.budgets.usage(record.id, "day")] == [3], "and counted once"


async def test_what_is_kept_of_a_settled_charge_is_forgotten_after_a_while(store: KeyStore, client: Redis) -> None:
    record = await insert(store, 10)
    admission = await charge(store, record, 3)
    await store.budgets.settle(admission)
    forgotten_at = await client.zscore(f"{hash_of(record.id)}:settled", admission.hold)
    assert 5_000 < float(forgotten_at or 0) - 1000 * time.time() < 15_000
    await let_lapse(client, admission)
    assert await remaining(store, record) == 7
    assert not await client.exists(f"{hash_of(record.id)}:settled")
    assert not [field for field in await client.hkeys(hash_of(record.id)) if str(field).startswith("held:")]


@pytest.mark.parametrize("how", ["release", "lapse"])
async def test_a_charge_that_was_given_back_cannot_be_settled(store: KeyStore, client: Redis, how: str) -> None:
    """Or two answers could leave for one part of the budget."""
    record = await insert(store, 10)
    late = await charge(store, record, 10)
    if how == "release":
        await store.budgets.release(late)
    else:
        await let_lapse(client, late)
    kept = await charge(store, record, 10)
    with pytest.raises(StoreUnavailable):
        await store.budgets.settle(late)
    await store.budgets.settle(kept)
    assert await remaining(store, record) == 0


async def test_a_hold_lives_for_as_long_as_it_says(store: KeyStore, client: Redis) -> None:
    record = await insert(store, 10)
    admission = await charge(store, record, 1)
    held = str(await client.hget(hash_of(record.id), f"held:{admission.hold}"))
    assert abs(int(held.split(":", maxsplit=1)[0]) / 1000 - time.time() - HOLD_LIFE_S) < 5


async def test_a_lapsed_hold_is_given_back_to_whoever_asks_next_and_only_once(store: KeyStore, client: Redis) -> None:
    record = await insert(store, 10)
    late, _ = await charge(store, record, 6), await charge(store, record, 3)
    await let_lapse(client, late)
    assert [key.budget.remaining for key in await store.page(None, 10)] == [7]
    await let_lapse(client, late)
    assert (await charge(store, record, 7)).budget.remaining == 0
    await store.budgets.release(late)
    assert await remaining(store, record) == 0
    kinds = [line.kind for line in await store.budgets.ledger(record.id, 10)]
    assert kinds == ["charge", "charge", "lapse", "charge"]


async def test_any_number_of_lapsed_holds_is_given_back(store: KeyStore, client: Redis) -> None:
    record = await insert(store, 120)
    admissions = await asyncio.gather(*(charge(store, record, 1) for _ in range(120)))
    await let_lapse(client, *admissions)
    assert await remaining(store, record) == 120


# --- a reply that was lost


async def asked_again(client: Redis, record: KeyRecord, hold: str, count: int) -> list[str]:
    """What the store sends, under a hold of the test's choice."""
    asked = f"{record.revision} {digest_of(record)} 0  {count} {count} {hold} {MODEL}"
    answer: list[str] = await Scripts(client).run("admit", [hash_of(record.id)], [asked])
    return [str(part) for part in answer]


async def test_a_charge_asked_for_again_with_its_hold_is_charged_once(store: KeyStore, client: Redis) -> None:
    record = await insert(store, 10, rate_limits=(RateLimit(name="day", limit=10, window_s=86_400),))
    for _ in range(3):
        verdict = await asked_again(client, record, "abc", 10)
        assert verdict[:3] == ["held", "0", "0"]
    assert await remaining(store, record) == 0
    assert len(await store.budgets.ledger(record.id, 10)) == 1


# --- a store that is gone

RATE = RateLimit(name="anonymous", limit=10, window_s=60)
CALLS: dict[str, Callable[[KeyStore, KeyRecord, Admission], Awaitable[object]]] = {
    "admit": lambda store, record, _: charge(store, record, 1),
    "settle": lambda store, _, admission: store.budgets.settle(admission),
    "release": lambda store, _, admission: store.budgets.release(admission),
    "pass_window": lambda store, *_: store.budgets.pass_window("192.0.2.1", RATE, 1),
    "is_buried": lambda store, record, _: store.budgets.is_buried(record.id, "jti"),
    "refused": lambda store, record, _: store.budgets.refused(record.id, MODEL, "missing-scope", 1),
    "usage": lambda store, record, _: store.budgets.usage(record.id, "day"),
    "ledger": lambda store, record, _: store.budgets.ledger(record.id, 10),
}


def test_the_outage_test_calls_every_method() -> None:
    assert {name for name in vars(BudgetStore) if not name.startswith("_")} == set(CALLS)


async def test_without_its_server_every_method_says_so_and_with_it_all_is_as_before(
    serve: Serve, tmp_path: Path
) -> None:
    with serve(tmp_path) as url:
        async with connect(url) as client:
            store = KeyStore(client)
            record = await insert(store, 10)
            held, settled = await charge(store, record, 2), await charge(store, record, 3)
            await store.budgets.settle(settled)
    async with connect(url) as client:
        store = KeyStore(client)
        outcomes = await asyncio.gather(*(call(store, record, held) for call in CALLS.values()), return_exceptions=True)
        assert {name: type(outcome) for name, outcome in zip(CALLS, outcomes, strict=True)} == dict.fromkeys(
            CALLS, StoreUnavailable
        )
        with serve(tmp_path):
            await asyncio.sleep(LOOKED_FOR_EVERY_S)
            assert await remaining(store, record) == 5
            assert (await charge(store, record, 1)).budget.remaining == 4
            await store.budgets.release(held)
            assert await remaining(store, record) == 6
