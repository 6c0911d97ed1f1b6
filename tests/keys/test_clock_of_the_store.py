"""The store's clock goes wrong for a while and comes back: nothing waits until it is that late in earnest."""

import time
from datetime import UTC, datetime
from typing import Any

import pytest
from redis.asyncio import Redis

from keys.errors import QuotaExceeded
from keys.layout import hash_of
from keys.records import Budget, Refill
from keys.store import KeyStore
from tests.keys.conftest import charge, insert, let_lapse
from tests.keys.test_rate_limits import NOW, PARTS, played
from tests.keys.test_refills import next_reset

AHEAD_S = 400 * 86_400
HOUR_MS = 3_600_000
SWEPT_S, HOLD_S = 10, 120


async def noted(client: Redis, key_id: str) -> dict[str, str]:
    """The fields of a key."""
    fields: Any = await client.hgetall(hash_of(key_id))
    return dict(fields)


async def put_ahead(client: Redis, key_id: str) -> None:
    """As if all that the store has noted of a key was noted by a clock that was far ahead."""
    name = hash_of(key_id)
    for field, text in (await noted(client, key_id)).items():
        if field == "due":
            await client.hset(name, field, str(int(text) + 1000 * AHEAD_S))
        if field == "resets_at" and text:
            await client.hset(name, field, str(int(text) + AHEAD_S))
        if field.startswith("held:"):
            ends, _, rest = text.partition(":")
            await client.hset(name, field, f"{int(ends) + 1000 * AHEAD_S}:{rest}")


@pytest.mark.parametrize("refill", ["daily", "monthly"])
async def test_a_budget_is_refilled_at_the_next_midnight_and_not_at_one_that_lay_ahead(
    client: Redis, store: KeyStore, refill: Refill
) -> None:
    record = await insert(store, budget=Budget(limit=5, remaining=5, refill=refill))
    await charge(store, record, 5)
    await put_ahead(client, record.id)
    with pytest.raises(QuotaExceeded):
        await charge(store, record, 1)
    budget = (await store.get(record.id)).budget
    assert budget.resets_at == next_reset(refill, time.time())
    assert budget.remaining == 0, "nothing is given twice"


async def test_a_charge_that_nobody_settles_comes_back_two_minutes_later(client: Redis, store: KeyStore) -> None:
    record = await insert(store, 5)
    admission = await charge(store, record, 3)
    await store.get(record.id)
    await put_ahead(client, record.id)
    await store.get(record.id)
    fields = await noted(client, record.id)
    assert int(fields["due"]) / 1000 <= time.time() + SWEPT_S
    ends = int(fields[f"held:{admission.hold}"].partition(":")[0]) / 1000
    assert 0 < ends - datetime.now(UTC).timestamp() <= HOLD_S
    await let_lapse(client, admission)
    assert (await store.get(record.id)).budget.remaining == 5


def test_what_was_sent_by_a_clock_that_was_ahead_fills_no_window(url: str) -> None:
    ahead = NOW + 24 * HOUR_MS
    told = played(url, 3, HOUR_MS, [(NOW, 1), (ahead, 3), (NOW + 1000, 3), (NOW + 2000, 1)])
    assert [(left, retry_ms > 0) for left, retry_ms, *_ in told] == [(3, False), (3, False), (3, False), (0, True)]
    assert told[-1][1] <= HOUR_MS * (PARTS + 1) / PARTS, "as after any other requests"


def test_a_clock_that_goes_back_by_a_moment_gives_nothing_away(url: str) -> None:
    edge = (NOW * PARTS // HOUR_MS + 1) * HOUR_MS // PARTS  # where the next part of the window begins
    first, second = played(url, 3, HOUR_MS, [(edge, 3), (edge - 5, 1)])
    assert (first[1], second[0]) == (0, 0)
    assert HOUR_MS < second[1] <= HOUR_MS * (PARTS + 2) / PARTS
