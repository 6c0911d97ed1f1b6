"""Budgets that are given anew: at the right midnight, once, whatever else happens; and the ledger tells the same."""

import asyncio
import random
import time
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError
from redis import Redis as PlainRedis
from redis.asyncio import Redis

from keys.budget_store import Ask
from keys.errors import KeyServiceError, QuotaExceeded
from keys.layout import hash_of, replacement, rotation
from keys.records import MAX_BUDGET, Admission, Budget, BudgetGrant, KeyPatch, KeyRecord, Refill
from keys.scripting import FOLDER, PRELUDE
from keys.service import KeyService
from keys.store import Change, KeyStore, Logged
from tests.keys.conftest import ADMIN, charge, grant, insert, issue, let_lapse

DAY_S = 86_400
CALENDAR = """
local told = {}
for day = ARGV[1], ARGV[2] do
  for _, second in ipairs({0, 43200.5, 86399.999}) do
    local now = (day * DAY_S + second) * 1000
    for _, number in ipairs({day_of_month(day), next_reset(now, 'daily'), next_reset(now, 'monthly')}) do
      told[#told + 1] = digits(number)
    end
  end
end
return told
"""
REFILLS: tuple[Refill, ...] = ("daily", "monthly")


def day_number(day: date) -> int:
    return (day - date(1970, 1, 1)).days


def next_reset(refill: Refill, now: float) -> datetime:
    """By Python's calendar."""
    midnight = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if refill == "daily":
        return midnight + timedelta(days=1)
    return (midnight.replace(day=1) + timedelta(days=32)).replace(day=1)


@pytest.mark.parametrize("years", [(1970, 1976), (1999, 2001), (2023, 2033), (2095, 2120)], ids=str)
def test_the_calendar_is_that_of_everybody(url: str, years: tuple[int, int]) -> None:
    days = range(day_number(date(years[0], 1, 1)), day_number(date(years[1], 12, 31)) + 1)
    with PlainRedis.from_url(url) as client:
        told: Any = client.eval((FOLDER / f"{PRELUDE}.lua").read_text() + CALENDAR, 0, str(days[0]), str(days[-1]))
    expected: list[int] = []
    for number in days:
        day = date(1970, 1, 1) + timedelta(days=number)
        first_of_next = (day.replace(day=1) + timedelta(days=32)).replace(day=1)
        expected += [day.day - 1, (number + 1) * DAY_S, day_number(first_of_next) * DAY_S] * 3
    assert [int(number) for number in told] == expected


# --- a budget that is given anew


def refilled(limit: int, refill: Refill = "daily") -> dict[str, Any]:
    return {"budget": Budget(limit=limit, remaining=limit, refill=refill)}


async def budget(store: KeyStore, record: KeyRecord) -> Budget:
    return (await store.get(record.id)).budget


async def let_the_period_end(client: Redis, record: KeyRecord, ago_s: float = 1) -> None:
    await client.hset(hash_of(record.id), "resets_at", str(int(time.time() - ago_s)))


async def kinds(store: KeyStore, record: KeyRecord) -> list[str]:
    return [line.kind for line in await store.budgets.ledger(record.id, 1000)]


@pytest.mark.parametrize("refill", REFILLS)
async def test_a_budget_says_when_it_is_given_anew(store: KeyStore, refill: Refill) -> None:
    before = next_reset(refill, time.time())
    record = await insert(store, **refilled(10, refill))
    found = [(await budget(store, record)).resets_at, (await charge(store, record, 3)).budget.resets_at]
    with pytest.raises(QuotaExceeded) as refusal:
        await charge(store, record, 8)
    found.append(refusal.value.resets_at)
    assert set(found) <= {before, next_reset(refill, time.time())}


async def test_a_budget_without_a_refill_is_never_given_anew(store: KeyStore) -> None:
    record = await insert(store, 10)
    await charge(store, record, 3)
    assert await budget(store, record) == Budget(limit=10, remaining=7)


@pytest.mark.parametrize("ago_s", [0, 1, DAY_S, 400 * DAY_S])
@pytest.mark.parametrize("refill", REFILLS)
async def test_after_its_period_a_budget_is_whole_once(
    store: KeyStore, client: Redis, refill: Refill, ago_s: float
) -> None:
    record = await insert(store, **refilled(10, refill))
    await store.budgets.settle(await charge(store, record, 7))
    assert (await budget(store, record)).remaining == 3
    await let_the_period_end(client, record, ago_s)
    found = await asyncio.gather(*(store.get(record.id) for _ in range(10)), store.page(None, 10))
    assert [key.budget.remaining for key in [*found[:10], *found[10]]] == [10] * 11  # type: ignore[misc]
    assert (await budget(store, record)).resets_at == next_reset(refill, time.time())
    await charge(store, record, 4)
    assert (await budget(store, record)).remaining == 6
    assert await kinds(store, record) == ["charge", "refill", "charge"]


async def test_a_charge_finds_its_budget_given_anew(store: KeyStore, client: Redis) -> None:
    record = await insert(store, **refilled(10))
    await charge(store, record, 10)
    await let_the_period_end(client, record)
    assert (await charge(store, record, 10)).budget.remaining == 0
    with pytest.raises(QuotaExceeded):
        await charge(store, record, 1)


async def test_of_two_hundred_charges_about_the_end_of_a_period_exactly_two_budgets_are_held(
    store: KeyStore, client: Redis
) -> None:
    record = await insert(store, **refilled(20))
    stores = [store, KeyStore(client)]
    outcomes: list[Any] = []
    for end in (False, True, False):  # what comes together shares a round trip, so the end lies beside them, not within
        calls: list[Any] = [charge(stores[number % 2], record, 1) for number in range(70)]
        calls.insert(35, let_the_period_end(client, record) if end else asyncio.sleep(0))
        outcomes += await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(outcome, Admission) for outcome in outcomes) == 40
    assert (await kinds(store, record)).count("refill") == 1


@pytest.mark.parametrize("how", ["release", "lapse"])
async def test_a_hold_of_the_last_period_gives_nothing_back_but_grants(
    store: KeyStore, client: Redis, how: str
) -> None:
    record = await insert(store, **refilled(10))
    await grant(store, record, 5)
    held = await charge(store, record, 12)
    assert held.budget.granted == 3
    await let_the_period_end(client, record)
    await charge(store, record, 4)
    if how == "release":
        await store.budgets.release(held)
    else:
        await let_lapse(client, held)
    found = await budget(store, record)
    assert (found.remaining, found.granted) == (6 + 5, 5)
    last = (await store.budgets.ledger(record.id, 1))[0]
    assert (last.kind, last.count, last.used, last.granted) == (how, -2, 4, 5)


@pytest.mark.parametrize("how", ["release", "lapse"])
async def test_a_hold_of_the_last_period_without_grants_gives_back_nothing(
    store: KeyStore, client: Redis, how: str
) -> None:
    record = await insert(store, **refilled(10))
    held = await charge(store, record, 6)
    await let_the_period_end(client, record)
    if how == "release":
        await store.budgets.release(held)
    else:
        await let_lapse(client, held)
    assert (await budget(store, record)).remaining == 10
    with pytest.raises(KeyServiceError):
        await store.budgets.settle(held)


async def test_a_hold_of_the_last_period_may_be_settled(store: KeyStore, client: Redis) -> None:
    record = await insert(store, **refilled(10))
    held = await charge(store, record, 6)
    await let_the_period_end(client, record)
    assert (await budget(store, record)).remaining == 10
    await store.budgets.settle(held)
    assert (await budget(store, record)).remaining == 10


async def test_grants_outlive_refills_and_are_spent_after_the_limit(store: KeyStore, client: Redis) -> None:
    record = await insert(store, **refilled(10))
    await grant(store, record, 5)
    for left in (5, 3, 3):
        found = await budget(store, record)
        assert (found.remaining, found.granted) == (10 + left, left)
        await store.budgets.settle(await charge(store, record, 12 if left == 5 else 10))
        await let_the_period_end(client, record)


async def test_the_greatest_budget_is_given_anew_exactly(store: KeyStore, client: Redis) -> None:
    record = await insert(store, **refilled(MAX_BUDGET))
    held = await charge(store, record, MAX_BUDGET)
    await let_the_period_end(client, record)
    await store.budgets.release(held)
    assert (await charge(store, record, 1)).budget.remaining == MAX_BUDGET - 1


def test_an_unlimited_budget_is_not_given_anew() -> None:
    for refill in REFILLS:
        with pytest.raises(ValidationError, match="no refill"):
            BudgetGrant(limit=None, refill=refill)


# --- beside changes


@pytest.mark.parametrize("what", ["replacement", "rotation"])
async def test_a_change_that_was_planned_before_a_refill_does_not_undo_it(
    store: KeyStore, client: Redis, what: str
) -> None:
    """Or what was charged between the two would be given twice."""
    record = await insert(store, **refilled(10))
    await charge(store, record, 5)
    await let_the_period_end(client, record)
    planned = await store.snapshot(record.id, "")
    await charge(store, record, 7)
    old = planned.record
    new = old.model_copy(update={"revision": old.revision + 1, "name": "renamed"})
    rotated = rotation(planned.fields, new, "a" * 64, planned.now, 60)
    commands = replacement(old, new) if what == "replacement" else rotated
    assert await store.commit(record.id, planned, Change(commands), Logged("e", "h", "n", "made", 60)) == "made"
    found = await budget(store, record)
    assert (found.remaining, found.resets_at) == (3, next_reset("daily", time.time()))
    assert await kinds(store, record) == ["charge", "refill", "charge"]


async def test_a_change_after_the_end_of_a_period_gives_the_budget_anew_once(
    service: KeyService, store: KeyStore, client: Redis
) -> None:
    record = (await issue(service, budget=BudgetGrant(limit=10, refill="daily"))).record
    await let_the_period_end(client, record)
    await service.lifecycle.update(record.id, KeyPatch(name="renamed"), ADMIN)
    await service.lifecycle.top_up(record.id, 5, ADMIN)
    assert (await budget(store, record)).remaining == 15
    assert await kinds(store, record) == ["refill", "top-up"]


async def test_a_refill_that_is_due_comes_before_the_change(service: KeyService, client: Redis) -> None:
    issued = await issue(service, budget=BudgetGrant(limit=10, refill="daily"))
    await service.settle(await service.admit(await service.authenticate(issued.api_key), Ask(7, 7, "tiny")))
    await let_the_period_end(client, issued.record)
    patch = KeyPatch(budget=BudgetGrant(limit=20))
    assert (await service.lifecycle.update(issued.record.id, patch, ADMIN)).budget == Budget(limit=20, remaining=20)


CHANGES: list[tuple[Refill, Refill]] = [
    ("none", "daily"),
    ("none", "monthly"),
    ("daily", "monthly"),
    ("monthly", "daily"),
    ("daily", "none"),
    ("daily", "daily"),
]


@pytest.mark.parametrize("refills", CHANGES, ids=" to ".join)
@pytest.mark.parametrize("read", [True, False], ids=["read", "not yet read"])
async def test_another_refill_is_for_what_comes_and_leaves_what_was_used(
    service: KeyService, client: Redis, refills: tuple[Refill, Refill], read: bool
) -> None:
    (before, after), limit = refills, 4
    issued = await issue(service, budget=BudgetGrant(limit=10, refill=before))
    record = issued.record
    if not read:
        await client.hset(hash_of(record.id), "resets_at", "")
    else:
        await service.settle(await service.admit(await service.authenticate(issued.api_key), Ask(3, 3, "tiny")))
    patch = KeyPatch(budget=BudgetGrant(limit=limit, refill=after))
    found = (await service.lifecycle.update(record.id, patch, ADMIN)).budget
    resets_at = None if after == "none" else next_reset(after, time.time())
    used = 3 if read else 0
    assert found == Budget(limit=limit, remaining=limit - used, refill=after, resets_at=resets_at)
    await service.lifecycle.update(record.id, KeyPatch(budget=BudgetGrant(limit=None)), ADMIN)
    assert (await service.directory.show(record.id)).budget == Budget(limit=None, remaining=None)


# --- the ledger


STEPS = ["charge"] * 4 + ["settle", "release", "lapse", "top-up", "refill"]


async def test_after_any_mix_the_ledger_says_what_the_counters_say(store: KeyStore, client: Redis) -> None:
    chance = random.Random(5)  # noqa: S311 - a story that is the same each time
    record, held = await insert(store, **refilled(30)), list[Admission]()
    for _ in range(150):
        step, count = chance.choice(STEPS), chance.randint(1, 9)
        if step == "charge":
            with suppress(QuotaExceeded):
                held.append(await charge(store, record, count))
        elif step == "top-up":
            await grant(store, record, count)
        elif step == "refill":
            await let_the_period_end(client, record)
        elif held:
            await _end(store, client, step, held.pop(chance.randrange(len(held))))
    found = await budget(store, record)
    used, granted, seen = 0, 0, set()
    for line in await store.budgets.ledger(record.id, 1000):
        kind, count, used_then, granted_then = line.kind, line.count, line.used, line.granted
        if kind == "refill":
            assert (count, used_then, granted_then) == (0, 0, granted)
        else:
            assert used_then - granted_then == used - granted + (-count if kind == "top-up" else count)
        used, granted = used_then, granted_then
        seen.add(kind)
    assert seen == {"charge", "release", "lapse", "top-up", "refill"}
    assert (found.remaining, found.granted) == (30 - used + granted, granted)


async def _end(store: KeyStore, client: Redis, how: str, held: Admission) -> None:
    if how == "settle":
        await store.budgets.settle(held)
    elif how == "release":
        await store.budgets.release(held)
    else:
        await let_lapse(client, held)
