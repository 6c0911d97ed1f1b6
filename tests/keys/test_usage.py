"""What was answered, refused and charged is counted by hour and day, and written down in the ledger."""

import time
from datetime import UTC, datetime

import pytest
from redis.asyncio import Redis

from keys.budget_store import DAYS_SHOWN, HOURS_SHOWN, Ask
from keys.errors import QuotaExceeded, RateLimited
from keys.layout import hash_of
from keys.records import Idempotency, Proof, RateLimit, UsageBucket
from keys.store import KeyStore
from tests.keys.conftest import MODEL, charge, digest_of, grant, insert


async def test_each_outcome_is_counted_once(store: KeyStore) -> None:
    record, named = await insert(store, 10), Idempotency("name", "0f")
    limited = await insert(store, 10, rate_limits=(RateLimit(name="day", limit=4, window_s=86_400),))
    await store.budgets.settle(await charge(store, record, 4, named))
    await charge(store, record, 4, named)
    await store.budgets.release(await charge(store, record, 3))
    await store.budgets.admit(record, Proof(digest_of(record)), Ask(5, 0, "other"))
    for _ in range(2):
        with pytest.raises(QuotaExceeded):
            await charge(store, record, 7)
    await store.budgets.refused(record.id, MODEL, "missing-scope", 2)
    expected = {"served": 4, "replayed": 4, "failed": 3, "quota-exceeded": 14, "missing-scope": 2}
    for found in (await store.budgets.usage(record.id, "hour"), await store.budgets.usage(record.id, "day")):
        assert {b.outcome: b.images for b in found if b.model == MODEL} == expected
        assert [(b.outcome, b.images) for b in found if b.model == "other"] == [("public", 5)]
    with pytest.raises(RateLimited):
        await charge(store, limited, 5)
    assert [(b.outcome, b.images) for b in await store.budgets.usage(limited.id, "day")] == [("rate-limited", 5)]


async def test_hours_and_days_are_those_of_utc_and_end_with_their_span(store: KeyStore, client: Redis) -> None:
    record = await insert(store)
    seconds, _ = await client.time()
    today = seconds // 86_400
    first_hours, first_day = today - HOURS_SHOWN // 24 + 1, today - DAYS_SHOWN + 1
    for day in (first_day - 1, first_day, first_hours - 1, first_hours, today):
        for hour in (0, 23):
            await client.hset(f"{hash_of(record.id)}:usage:{day}", f"{24 * day + hour}:served:{MODEL}:x", "2")
    hours = [86_400 * day + 3600 * hour for day in (first_hours, today) for hour in (0, 23)]
    days = [86_400 * day for day in (first_day, first_hours - 1, first_hours, today)]
    assert await store.budgets.usage(record.id, "hour") == [_served(start, 2) for start in hours]
    assert await store.budgets.usage(record.id, "day") == [_served(start, 4) for start in days]


def _served(start: int, images: int) -> UsageBucket:
    return UsageBucket(datetime.fromtimestamp(start, UTC), f"{MODEL}:x", "served", images)


async def test_what_was_counted_is_kept_for_as_long_as_it_is_shown(store: KeyStore, client: Redis) -> None:
    record = await insert(store)
    await store.budgets.settle(await charge(store, record, 4))
    (name,) = [name async for name in client.scan_iter(match="*:usage:*")]
    assert 400 * 86_400 - 5 < await client.ttl(name) <= 400 * 86_400
    other = await insert(store)
    await store.budgets.refused(other.id, MODEL, "missing-scope", 1)
    assert await client.ttl(f"{hash_of(other.id)}:usage:{str(name).rpartition(':')[2]}") > 399 * 86_400


async def test_a_refusal_is_the_first_of_its_kind_once_a_minute(store: KeyStore, client: Redis) -> None:
    record, other = await insert(store, 0), await insert(store, 0)
    codes = ["missing-scope", "missing-scope", "invalid-credential"]
    assert [await store.budgets.refused(record.id, MODEL, code, 1) for code in codes] == [True, False, True]
    assert await store.budgets.refused(other.id, MODEL, "missing-scope", 1)
    assert 55 < await client.ttl(f"{hash_of(record.id)}:refused:missing-scope") <= 60
    firsts = []
    for forget in (False, False, True):
        if forget:
            await client.delete(f"{hash_of(record.id)}:refused:quota-exceeded")
        with pytest.raises(QuotaExceeded) as refusal:
            await charge(store, record, 1)
        firsts.append(refusal.value.first)
    assert firsts == [True, False, True]


async def test_the_ledger_keeps_the_last_changes_oldest_first(store: KeyStore, client: Redis) -> None:
    record = await insert(store, 10)
    await store.budgets.release(await charge(store, record, 3))
    await grant(store, record, 2)
    lines = await store.budgets.ledger(record.id, 100)
    told = [(line.kind, line.count, line.used, line.granted) for line in lines]
    assert told == [("charge", 3, 3, 0), ("release", -3, 0, 0), ("top-up", 2, 0, 2)]
    assert all(abs(line.at.timestamp() - time.time()) < 5 for line in lines)
    assert [line.kind for line in await store.budgets.ledger(record.id, 2)] == ["release", "top-up"]
    async with client.pipeline(transaction=False) as pipeline:
        for _ in range(10_200):
            pipeline.rpush(f"{hash_of(record.id)}:ledger", "0 made-up 0 0 0")
        await pipeline.execute()
    await charge(store, record, 1)
    assert 10_000 <= await client.llen(f"{hash_of(record.id)}:ledger") < 10_150, "it does not grow for ever"
