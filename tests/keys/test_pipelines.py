"""What is asked of the store together goes together, and each caller gets its own answer or its own error."""

import asyncio
from pathlib import Path
from typing import cast

import pytest
from redis import Redis as PlainRedis
from redis.asyncio import Redis

from keys.connection import connect
from keys.errors import StoreUnavailable
from keys.pipelines import CONNECTIONS, LOOKED_FOR_EVERY_S, Pipelines
from keys.store import KeyStore
from tests.keys.conftest import Serve, charge, insert

KEY = "sdb:{a}"


@pytest.fixture
async def pipelines(client: Redis) -> Pipelines:
    """Pipelines whose first connection is made."""
    pipelines = Pipelines(client)
    await pipelines.send(KEY, "PING")
    return pipelines


async def count(pipelines: Pipelines) -> int:
    return int(await pipelines.send(KEY, "INCR", "count"))


def round_trips(url: str) -> int:
    """How often the store has read from its connections; to ask it costs one."""
    with PlainRedis.from_url(url) as observer:
        observer.ping()
        return int(observer.info("stats")["total_reads_processed"])


async def test_what_is_asked_in_one_turn_costs_one_round_trip_and_all_are_answered_in_turn(
    url: str, pipelines: Pipelines
) -> None:
    alone = round_trips(url)
    observing = round_trips(url) - alone
    before = round_trips(url)
    assert await asyncio.gather(*(count(pipelines) for _ in range(32))) == list(range(1, 33))
    assert round_trips(url) - before - observing == 1


async def test_what_is_asked_one_after_the_other_waits_for_nobody(url: str, pipelines: Pipelines) -> None:
    observing = -round_trips(url) + round_trips(url)
    before = round_trips(url)
    assert [await count(pipelines) for _ in range(5)] == [1, 2, 3, 4, 5]
    assert round_trips(url) - before - observing == 5


async def test_who_is_refused_is_so_alone(client: Redis, pipelines: Pipelines) -> None:
    await client.set("text", "no number")
    wrong = [pipelines.send(KEY, "INCR", "text") for _ in range(3)]
    good = [pipelines.send(KEY, "INCR", "number") for _ in range(3)]
    also_wrong = pipelines.send(KEY, "HGET", "text")
    assert await asyncio.gather(*good) == [1, 2, 3]
    for answer in (*wrong, also_wrong):
        with pytest.raises(StoreUnavailable):
            await answer


async def test_what_cannot_be_sent_harms_its_caller_alone(pipelines: Pipelines) -> None:
    good = pipelines.send(KEY, "INCR", "number")
    with pytest.raises(UnicodeEncodeError):
        pipelines.send(KEY, "SET", "text", "\ud800")
    assert await good == 1


async def test_a_reply_that_nobody_can_read_refuses_who_waits_and_nobody_after(
    client: Redis, pipelines: Pipelines
) -> None:
    await client.set("bytes", b"\xff")
    unreadable, beside = pipelines.send(KEY, "GET", "bytes"), pipelines.send(KEY, "INCR", "number")
    for answer in (unreadable, beside):
        with pytest.raises(StoreUnavailable):
            await answer
    await asyncio.sleep(LOOKED_FOR_EVERY_S)
    assert await pipelines.send(KEY, "ECHO", "mine") == "mine", "and no reply of an earlier command"


async def test_who_goes_away_takes_nobody_along(pipelines: Pipelines) -> None:
    callers = [asyncio.create_task(count(pipelines)) for _ in range(6)]
    await asyncio.sleep(0)
    for gone in callers[::2]:
        gone.cancel()
    assert await asyncio.gather(*callers[1::2]) == [2, 4, 6], "what was given is done"
    assert await count(pipelines) == 7


async def test_whenever_something_is_asked_it_is_answered(pipelines: Pipelines) -> None:
    """Also if it comes just as a connection has nothing to do any more."""

    async def after(turns: int) -> int:
        for _ in range(turns):
            await asyncio.sleep(0)
        return await count(pipelines)

    async with asyncio.timeout(20):
        answers = await asyncio.gather(*(after(number % 97) for number in range(2000)))
    assert sorted(answers) == list(range(1, 2001))


async def test_however_much_is_asked_few_connections_are_used(client: Redis, pipelines: Pipelines) -> None:
    before = (await client.info("clients"))["connected_clients"]
    for _ in range(50):
        calls = [asyncio.create_task(count(pipelines)) for _ in range(20)]
        await asyncio.sleep(0)
    await asyncio.gather(*calls)
    assert (await client.info("clients"))["connected_clients"] <= before + CONNECTIONS - 1
    assert await count(pipelines) == 1001


async def test_each_caller_is_told_that_the_store_is_away_and_answered_when_it_is_back(
    serve: Serve, tmp_path: Path
) -> None:
    with serve(tmp_path) as url:
        pass
    async with connect(url) as client:
        pipelines = Pipelines(client)
        for _ in range(2):
            answers = await asyncio.gather(*(count(pipelines) for _ in range(20)), return_exceptions=True)
            assert {type(answer) for answer in answers} == {StoreUnavailable}
            assert len({id(answer) for answer in answers}) == 20, "an error of its own"
        for first in (1, 21):
            with serve(tmp_path):
                await asyncio.sleep(LOOKED_FOR_EVERY_S)
                answers = await asyncio.gather(*(count(pipelines) for _ in range(20)))
                assert answers == list(range(first, first + 20))


class Doors:
    """A client whose first connections are refused when the test says so; all others are those of a store."""

    def __init__(self, client: Redis, refused: int) -> None:
        self.connection_pool, self._pool = self, client.connection_pool
        self.refused = [asyncio.Event() for _ in range(refused)]
        self._left = list(self.refused)

    async def get_connection(self) -> object:
        if not self._left:
            return await self._pool.get_connection()  # type: ignore[no-untyped-call]
        await self._left.pop(0).wait()
        raise ConnectionRefusedError


async def test_a_store_that_is_back_is_found_though_who_was_to_look_had_nothing_left_to_ask(client: Redis) -> None:
    """What it was to ask was refused with an older round trip, whose end came in the same turn of the loop."""
    doors = Doors(client, refused=2)
    pipelines = Pipelines(cast("Redis", doors))
    older = []
    for _ in doors.refused:
        older.append(pipelines.send(KEY, "PING"))
        await asyncio.sleep(0)
    first, second = doors.refused
    first.set()
    await asyncio.wait(older[:1])
    await asyncio.sleep(LOOKED_FOR_EVERY_S)
    second.set()
    answers = [*older, pipelines.send(KEY, "PING")]
    await asyncio.wait(answers)
    assert {type(answer.exception()) for answer in answers} == {StoreUnavailable}
    await asyncio.sleep(LOOKED_FOR_EVERY_S)
    assert await count(pipelines) == 1


async def test_replicas_are_waited_for_once_for_all_that_goes_together(client: Redis) -> None:
    pipelines = Pipelines(client, replicas=1)
    before = (await client.info("commandstats")).get("cmdstat_wait", {"calls": 0})["calls"]
    answers = await asyncio.gather(*(count(pipelines) for _ in range(20)), return_exceptions=True)
    assert {str(answer) for answer in answers} == {"0 of 1 replicas have acknowledged the change in time"}
    assert (await client.info("commandstats"))["cmdstat_wait"]["calls"] == before + 1


async def test_charges_that_come_together_share_a_round_trip(url: str, client: Redis) -> None:
    store = KeyStore(client)
    record = await insert(store, 100)
    await store.budgets.settle(await charge(store, record, 1))  # now the store knows both scripts
    observing = -round_trips(url) + round_trips(url)
    before = round_trips(url)
    held = await asyncio.gather(*(charge(store, record, 1) for _ in range(32)))
    await asyncio.gather(*(store.budgets.settle(admission) for admission in held))
    assert round_trips(url) - before - observing == 2
    assert (await store.get(record.id)).budget.remaining == 67
