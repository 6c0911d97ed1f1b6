"""Laws of the load generator: what it counts, and that a server cannot hide its stalls from it."""

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from benchmarks.latencies import Result
from benchmarks.load import Load, run

GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
BAD = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
REQUEST = b"POST / HTTP/1.1\r\nHost: box\r\nContent-Length: 5\r\n\r\nimage"
Behaviour = Callable[[int], Awaitable[bytes]]


@contextmanager
def server(behaviour: Behaviour) -> Iterator[tuple[int, list[bytes]]]:
    """A server in a thread, whose n-th answer is `behaviour(n)`; its port, and the bodies that it has seen."""
    loop, seen = asyncio.new_event_loop(), list[bytes]()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                seen.append(await reader.readexactly(5))
                writer.write(await behaviour(len(seen)))
        writer.close()

    listening = loop.run_until_complete(asyncio.start_server(connected, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield listening.sockets[0].getsockname()[1], seen
    finally:
        asyncio.run_coroutine_threadsafe(_ended(listening), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _ended(listening: asyncio.Server) -> None:
    listening.close()
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    await asyncio.sleep(0.05)


def side_by_side(*loads: Load) -> list[Result]:
    """What becomes of each; they mostly wait."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda load: run(load, [REQUEST]), loads))


async def good(_number: int) -> bytes:
    return GOOD


def test_every_request_is_waited_for_and_none_is_an_error() -> None:
    with server(good) as (port, seen):
        result = run(Load(port, connections=4, seconds=0.3, warm_up_s=0.1), [REQUEST])
        assert result.errors == 0
        assert 0 < result.answered <= len(seen)
        assert result.per_second == pytest.approx(result.answered / 0.3, rel=0.2)


def test_different_requests_take_turns() -> None:
    with server(good) as (port, seen):
        run(Load(port, connections=1, seconds=0.1, warm_up_s=0), [REQUEST, REQUEST.replace(b"image", b"other")])
    assert seen[:4] == [b"image", b"other", b"image", b"other"]


def test_a_refusal_is_an_error() -> None:
    async def refuse(number: int) -> bytes:
        return BAD if number % 2 else GOOD

    with server(refuse) as (port, seen):
        result = run(Load(port, connections=1, seconds=0.2, warm_up_s=0), [REQUEST])
    assert result.errors == pytest.approx(len(seen) / 2, abs=1)


def test_a_stall_is_in_the_latency_of_everything_that_was_due_meanwhile() -> None:
    async def stall_once(number: int) -> bytes:
        if number == 20:
            await asyncio.sleep(0.5)
        return GOOD

    with server(stall_once) as (port, _), server(stall_once) as (other, _):
        scheduled, closed = side_by_side(
            Load(port, connections=1, seconds=1.0, warm_up_s=0, rate=100),
            Load(other, connections=1, seconds=1.0, warm_up_s=0),
        )
    assert scheduled.p90_ms > 200, "half of all requests were due while nobody answered"
    assert closed.p90_ms < scheduled.p90_ms / 2, "a closed loop sends nothing meanwhile: only one of many is late"


def test_a_schedule_keeps_its_rate_whether_due_evenly_or_at_random() -> None:
    with server(good) as (port, _):
        even, random = side_by_side(
            Load(port, connections=8, seconds=1.0, warm_up_s=0.1, rate=100),
            Load(port, connections=8, seconds=1.0, warm_up_s=0.1, rate=100, arrivals="poisson"),
        )
    assert even.per_second == pytest.approx(100, abs=10)
    assert random.per_second == pytest.approx(100, abs=40)
