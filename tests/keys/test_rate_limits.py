"""Rate limits: never more than the limit in any window, and hardly ever less."""

import asyncio
import time
from collections.abc import Iterable
from itertools import accumulate
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from redis import Redis as PlainRedis
from redis.asyncio import Redis

from keys.budget_store import Ask
from keys.errors import QuotaExceeded, RateLimited
from keys.layout import hash_of
from keys.records import MAX_BUDGET, Admission, KeyRecord, Proof, RateLimit
from keys.scripting import FOLDER, PRELUDE
from keys.store import KeyStore
from tests.keys.conftest import change, digest_of, insert

BURST, DAY = RateLimit(name="burst", limit=5, window_s=1), RateLimit(name="day", limit=10, window_s=86_400)
PARTS = 12
NOW = 1_795_000_000_000

# A story of requests, each at a time (ms), by the script's own function. Of each: what was left before it, when it
# would fit (0: it does), when all is left again, and whether it would have fitted then, and a millisecond sooner.
STORY = """
local limit, length, text, told = tonumber(ARGV[1]), tonumber(ARGV[2]), nil, {}
local function fits(now, count)
  local _, retry_ms = window(text, now, limit, length, count)
  return retry_ms == 0 and 1 or 0
end
for i = 3, #ARGV, 2 do
  local now, count = tonumber(ARGV[i]), tonumber(ARGV[i + 1])
  local left, retry_ms, after, reset_ms = window(text, now, limit, length, count)
  text = after or text
  local wait = retry_ms > 0 and retry_ms or reset_ms or 0
  for _, number in ipairs({left, retry_ms, reset_ms or 0}) do
    told[#told + 1] = digits(number)
  end
  local wanted = retry_ms > 0 and count or limit
  told[#told + 1] = fits(now + wait, wanted)
  told[#told + 1] = fits(now + wait - 1, wanted)
end
return told
"""


def played(url: str, limit: int, window_ms: int, requests: Iterable[tuple[int, int]]) -> list[list[int]]:
    """What the script says of each request (time in ms, images)."""
    script = (FOLDER / f"{PRELUDE}.lua").read_text() + STORY
    arguments = [number for request in requests for number in request]
    with PlainRedis.from_url(url) as client:
        told: Any = client.eval(script, 0, str(limit), str(window_ms), *map(str, arguments))
    numbers = [int(number) for number in told]
    return [numbers[i : i + 5] for i in range(0, len(numbers), 5)]


WINDOWS = st.sampled_from([1000, 2000, 7000, 60_000, 3_600_000, 86_400_000, 31 * 86_400_000])
GAPS = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 12)), min_size=1, max_size=60)


@given(limit=st.integers(1, 20), window_ms=WINDOWS, gaps=GAPS, start=st.integers(0, 10**7))
@example(limit=1, window_ms=1000, gaps=[(13, 1)] * 60, start=0)
@example(limit=3, window_ms=7000, gaps=[(1, 1)] * 60, start=1)
@example(limit=1, window_ms=7000, gaps=[(0, 1)] * 2, start=205_000_740_123)  # a seventh of that is no binary fraction
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_window_holds_more_than_its_limit_and_a_place_is_free_a_twelfth_late_at_most(
    url: str, limit: int, window_ms: int, gaps: list[tuple[int, int]], start: int
) -> None:
    times = accumulate((gap * window_ms // (4 * PARTS) for gap, _ in gaps), initial=NOW + start)
    requests = list(zip(times, (count for _, count in gaps), strict=False))
    admitted: list[tuple[int, int]] = []

    def within(now: int, length: float) -> int:
        return sum(count for at, count in admitted if at > now - length)

    for (now, count), told in zip(requests, played(url, limit, window_ms, requests), strict=True):
        left, retry_ms, reset_ms, fits_then, fits_sooner = told
        assert limit - within(now, window_ms * (PARTS + 1) / PARTS) <= left <= limit - within(now, window_ms)
        if count > limit:
            assert retry_ms == -1, "it never fits"
            continue
        assert (retry_ms == 0) == (count <= left)
        assert (fits_then, fits_sooner) == (1, 0), "that long must be waited, and no longer"
        if retry_ms == 0:
            admitted.append((now, count))
            assert within(now, window_ms) <= limit
            assert window_ms < reset_ms <= -(-window_ms * (PARTS + 1) // PARTS)


def test_the_greatest_limit_is_counted_exactly(url: str) -> None:
    most = [(NOW, MAX_BUDGET - 1), (NOW, 2), (NOW, 1), (NOW, 1)]
    told = played(url, MAX_BUDGET, 1000, most)
    assert [left for left, *_ in told] == [MAX_BUDGET, 1, 1, 0]
    assert [retry_ms == 0 for _, retry_ms, *_ in told] == [True, False, True, False]


# --- of a key


async def ask(store: KeyStore, record: KeyRecord, images: int = 1, charge: int = 0) -> Admission:
    return await store.budgets.admit(record, Proof(digest_of(record)), Ask(images, charge, "tiny"))


async def windows(client: Redis, record: KeyRecord) -> dict[str, str]:
    fields: Any = await client.hgetall(hash_of(record.id))
    return {name: text for name, text in fields.items() if name.startswith("rate:")}


async def test_many_small_requests_get_through_a_window_as_often_as_it_says(store: KeyStore) -> None:
    record = await insert(store, rate_limits=(BURST,))
    give_up, spans = time.monotonic() + 10, list[tuple[float, float]]()
    while len(spans) < 2 * BURST.limit and time.monotonic() < give_up:
        sent = time.monotonic()
        try:
            await ask(store, record)
        except RateLimited:
            await asyncio.sleep(0.01)
        else:
            spans.append((sent, time.monotonic()))
    assert len(spans) == 2 * BURST.limit, "they come back"
    for start, _ in spans:
        surely_inside = [end for sent, end in spans if sent >= start and end <= start + BURST.window_s]
        assert len(surely_inside) <= BURST.limit


async def test_fifty_requests_at_once_on_a_window_of_ten_let_ten_images_through(store: KeyStore) -> None:
    record = await insert(store, rate_limits=(DAY,))
    outcomes = await asyncio.gather(*(ask(store, record, 1 + n % 2) for n in range(50)), return_exceptions=True)
    assert sum(outcome.images for outcome in outcomes if isinstance(outcome, Admission)) == 10
    refused = [outcome for outcome in outcomes if isinstance(outcome, RateLimited)]
    assert [refusal.first for refusal in refused].count(True) == 1, "one is logged"


async def test_a_refused_request_fits_after_the_time_it_was_told_and_not_before(store: KeyStore) -> None:
    record = await insert(store, rate_limits=(BURST,))
    await ask(store, record, 5)
    asked = time.monotonic()
    with pytest.raises(RateLimited) as refusal:
        await ask(store, record)
    wait, told = refusal.value.retry_after_s, time.monotonic()
    assert wait is not None
    assert 0 < wait <= 13 / 12
    while True:
        sent = time.monotonic()
        try:
            await ask(store, record, 5)
        except RateLimited:
            assert sent < told + wait
            await asyncio.sleep(0.02)
        else:
            break
    assert time.monotonic() > asked + wait - 0.002, "the store counts milliseconds"


async def test_a_request_that_is_larger_than_a_limit_never_fits(store: KeyStore) -> None:
    record = await insert(store, rate_limits=(DAY,))
    with pytest.raises(RateLimited) as refusal:
        await ask(store, record, 11)
    assert (refusal.value.name, refusal.value.retry_after_s) == ("day", None)
    await ask(store, record, 10)


async def test_each_limit_is_told_as_it_stands(store: KeyStore) -> None:
    named = (DAY, RateLimit(name="7", limit=100, window_s=60), RateLimit(name="a-1", limit=MAX_BUDGET, window_s=3600))
    record = await insert(store, rate_limits=named)
    await ask(store, record, 2)
    standings = (await ask(store, record, 3, charge=3)).standings
    assert [standing.rate for standing in standings] == list(named)
    assert [standing.remaining for standing in standings] == [5, 95, MAX_BUDGET - 5]
    for standing in standings:
        assert standing.rate.window_s < standing.reset_s <= standing.rate.window_s * 13 / 12 + 0.001


async def test_a_request_that_one_limit_refuses_counts_in_none(store: KeyStore, client: Redis) -> None:
    record = await insert(store, 100, rate_limits=(RateLimit(name="hour", limit=20, window_s=3600), DAY))
    await ask(store, record, 8, charge=8)
    before = await windows(client, record)
    with pytest.raises(RateLimited) as refusal:
        await ask(store, record, 3, charge=3)
    assert refusal.value.name == "day"
    assert (await windows(client, record), (await store.get(record.id)).budget.remaining) == (before, 92)
    assert [standing.remaining for standing in (await ask(store, record, 2)).standings] == [10, 0]


async def test_a_request_that_the_budget_refuses_counts_in_no_limit(store: KeyStore, client: Redis) -> None:
    record = await insert(store, 3, rate_limits=(DAY,))
    with pytest.raises(QuotaExceeded):
        await ask(store, record, 4, charge=4)
    assert await windows(client, record) == {}
    assert (await ask(store, record, 10)).standings[0].remaining == 0


async def test_a_charge_that_is_given_back_has_been_asked_all_the_same(store: KeyStore) -> None:
    record = await insert(store, rate_limits=(DAY,))
    await store.budgets.release(await ask(store, record, 10, charge=10))
    with pytest.raises(RateLimited):
        await ask(store, record)


async def test_a_changed_limit_keeps_what_was_counted(store: KeyStore) -> None:
    record = await insert(store, rate_limits=(DAY,))
    await ask(store, record, 8)
    for limit, fitting in ((9, 1), (20, 12), (8, 0), (5, 0)):
        record = await change(store, record, rate_limits=(DAY.model_copy(update={"limit": limit}),), name="renamed")
        with pytest.raises(RateLimited):
            await ask(store, record, fitting + 1)
    record = await change(store, record, rate_limits=(DAY,))
    assert (await ask(store, record, 2)).standings[0].remaining == 0


@pytest.mark.parametrize("name", ["day", "other"])
async def test_a_window_of_another_length_or_name_begins_anew(store: KeyStore, client: Redis, name: str) -> None:
    record = await insert(store, rate_limits=(DAY, BURST))
    await ask(store, record, 5)
    changed = DAY.model_copy(update={"window_s": 3600, "name": name})
    record = await change(store, record, rate_limits=(changed,))
    assert await windows(client, record) == {}
    assert (await ask(store, record, 1)).standings[0].remaining == 9


async def test_a_limit_that_was_taken_away_begins_anew_when_it_comes_back(store: KeyStore) -> None:
    record = await insert(store, rate_limits=(DAY,))
    await ask(store, record, 10)
    record = await change(store, record, rate_limits=())
    assert (await ask(store, record, 1000)).standings == ()
    record = await change(store, record, rate_limits=(DAY,))
    assert (await ask(store, record, 10)).standings[0].remaining == 0


# --- of a caller without a key


async def test_a_caller_without_a_key_has_a_window_by_name_that_is_kept_as_long_as_it_counts(
    store: KeyStore, client: Redis
) -> None:
    for name in ("192.0.2.1", "192.0.2.2"):
        standing = await store.budgets.pass_window(name, DAY, 4)
        assert (standing.rate, standing.remaining) == (DAY, 6)
        assert 86_400 < standing.reset_s <= 86_400 * 13 / 12
        assert 0 <= 1000 * standing.reset_s - await client.pttl(f"sdb:window:{name}") < 5000
    assert (await store.budgets.pass_window("192.0.2.1", DAY, 6)).remaining == 0
    before = await client.get("sdb:window:192.0.2.1")
    for images, never in ((1, False), (11, True)):
        with pytest.raises(RateLimited) as refusal:
            await store.budgets.pass_window("192.0.2.1", DAY, images)
        assert (refusal.value.retry_after_s is None) is never
    assert await client.get("sdb:window:192.0.2.1") == before
