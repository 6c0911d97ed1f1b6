"""Many small requests become few batches, and nobody is forgotten."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import chain

import numpy as np
import pytest

from app.batching import HANGS, MOST_STUCK, Batcher
from app.errors import Draining, Overloaded
from tests.conftest import until

Numbers = Batcher[list[int], list[int]]
SOON = 30.0  # seconds after which a test that waits has failed
Work = Callable[[list[list[int]]], list[int]]


class Doubler:
    """Work that doubles numbers, remembers its batches, and can be held up and made to fail."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.entered, self.may_go_on = threading.Event(), threading.Event()
        self.may_go_on.set()

    def __call__(self, parts: list[list[int]]) -> list[int]:
        items = list(chain.from_iterable(parts))
        self.batches.append(items)
        self.entered.set()
        assert self.may_go_on.wait(SOON)
        if any(item < 0 for item in items):
            raise ArithmeticError("negative")
        return [2 * item for item in items]

    async def hold(self, batcher: Numbers) -> asyncio.Task[list[int]]:
        """Keep the worker busy with the item 0 until `may_go_on` is set."""
        self.may_go_on.clear()
        self.entered.clear()
        task = asyncio.create_task(answered(batcher, [0]))
        assert await asyncio.to_thread(self.entered.wait, SOON)
        return task


async def answered(batcher: Numbers, items: list[int]) -> list[int]:
    """The results of all parts."""
    return list(chain.from_iterable(await batcher.submit(items)))


@asynccontextmanager
async def running(
    work: Work,
    max_batch: int = 4,
    wait_s: float = 0,
    queue_limit: int = 1000,
    workers: int = 1,
    *,
    limit_s: float = 30.0,
) -> AsyncIterator[Numbers]:
    batcher = Numbers(
        work, max_batch=max_batch, wait_s=wait_s, queue_limit=queue_limit, workers=workers, limit_s=limit_s
    )
    await batcher.start()
    async with asyncio.timeout(SOON):
        yield batcher
        await batcher.close()


async def settle() -> None:
    """Let every task that can run do so."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_every_caller_gets_its_own_results_in_its_own_order() -> None:
    async with running(Doubler(), max_batch=7) as batcher:
        requests = [[100 * caller + number for number in range(caller % 5)] for caller in range(40)]
        answers = await asyncio.gather(*(answered(batcher, request) for request in requests))
    assert answers == [[2 * item for item in request] for request in requests]


async def test_what_waits_while_the_worker_is_busy_becomes_few_full_batches() -> None:
    work = Doubler()
    async with running(work, max_batch=8) as batcher:
        first = await work.hold(batcher)
        others = [asyncio.create_task(answered(batcher, [number])) for number in range(1, 21)]
        await settle()
        work.may_go_on.set()
        await asyncio.gather(first, *others)
    assert [len(batch) for batch in work.batches] == [1, 8, 8, 4]


async def test_a_batch_is_never_larger_than_allowed() -> None:
    work = Doubler()
    async with running(work, max_batch=3) as batcher:
        await asyncio.gather(answered(batcher, [*range(10)]), answered(batcher, [*range(5)]), answered(batcher, [1]))
    assert max(len(batch) for batch in work.batches) == 3
    assert sum(len(batch) for batch in work.batches) == 16


async def test_a_failure_reaches_every_caller_of_its_batch_and_no_other() -> None:
    work = Doubler()
    async with running(work, max_batch=2) as batcher:
        first = await work.hold(batcher)
        tasks = [asyncio.create_task(answered(batcher, [number])) for number in (-1, 5, 6, 7)]
        await settle()
        work.may_go_on.set()
        answers = await asyncio.gather(first, *tasks, return_exceptions=True)
    assert answers[0] == [0]
    assert [type(answer) for answer in answers[1:3]] == [ArithmeticError, ArithmeticError]
    assert answers[3:] == [[12], [14]]


async def test_a_request_of_several_batches_fails_as_a_whole_and_the_worker_goes_on() -> None:
    work = Doubler()
    async with running(work, max_batch=2) as batcher:
        with pytest.raises(ArithmeticError):
            await answered(batcher, [1, 2, 3, -4, 5, 6])
        assert await answered(batcher, [9]) == [18]


@pytest.mark.parametrize("results", [[], [1], [1, 2, 3]])
async def test_a_wrong_number_of_results_is_an_error_and_not_an_answer(results: list[int]) -> None:
    async with running(lambda _: results) as batcher:
        with pytest.raises(RuntimeError, match=f"{len(results)} results for a batch of 2"):
            await answered(batcher, [1, 2])


async def test_a_cancelled_caller_costs_no_work_and_holds_nobody_up() -> None:
    work = Doubler()
    async with running(work, max_batch=4) as batcher:
        first = await work.hold(batcher)
        gone = asyncio.create_task(answered(batcher, [11, 12]))
        stays = asyncio.create_task(answered(batcher, [13]))
        await settle()
        gone.cancel()
        await settle()
        work.may_go_on.set()
        assert await stays == [26]
        assert await first == [0]
    assert gone.cancelled()
    assert work.batches == [[0], [13]]


async def test_a_caller_cancelled_while_its_batch_runs_leaves_the_others_their_results() -> None:
    work = Doubler()
    async with running(work) as batcher:
        first = await work.hold(batcher)
        first.cancel()
        await settle()
        work.may_go_on.set()
        assert await answered(batcher, [4]) == [8]
    assert first.cancelled()


async def test_a_cancelled_caller_gives_its_place_in_the_queue_back() -> None:
    work = Doubler()
    async with running(work, queue_limit=2) as batcher:
        first = await work.hold(batcher)
        gone = asyncio.create_task(answered(batcher, [1, 2]))
        await settle()
        gone.cancel()
        await settle()
        late = asyncio.create_task(answered(batcher, [3]))
        await settle()
        work.may_go_on.set()
        assert list(await asyncio.gather(first, late)) == [[0], [6]]


async def test_a_full_queue_refuses_the_newcomer_and_serves_who_was_there() -> None:
    work = Doubler()
    async with running(work, queue_limit=3) as batcher:
        first = await work.hold(batcher)
        waiting = asyncio.create_task(answered(batcher, [1, 2]))
        await settle()
        with pytest.raises(Overloaded):
            await answered(batcher, [3, 4])
        fits = asyncio.create_task(answered(batcher, [5]))
        await settle()
        with pytest.raises(Overloaded):
            await answered(batcher, [6])
        work.may_go_on.set()
        assert list(await asyncio.gather(first, waiting, fits)) == [[0], [2, 4], [10]]
        assert await answered(batcher, [7]) == [14]


async def test_closing_finishes_what_is_queued_and_refuses_what_comes() -> None:
    work = Doubler()
    async with running(work, max_batch=2) as batcher:
        first = await work.hold(batcher)
        queued = [asyncio.create_task(answered(batcher, [number, number])) for number in (1, 2, 3)]
        await settle()
        closing = asyncio.create_task(batcher.close())
        await settle()
        assert not batcher.running
        with pytest.raises(Draining):
            await answered(batcher, [9])
        work.may_go_on.set()
        await closing
        assert list(await asyncio.gather(first, *queued)) == [[0], [2, 2], [4, 4], [6, 6]]
        with pytest.raises(Draining):
            await answered(batcher, [9])


async def test_a_batcher_that_was_never_started_closes_and_accepts_nothing() -> None:
    batcher = Numbers(Doubler(), max_batch=1, wait_s=0, queue_limit=1)
    assert not batcher.running
    with pytest.raises(Draining):
        await answered(batcher, [1])
    await batcher.close()


async def test_a_lone_request_does_not_wait_for_company() -> None:
    """With the longest wait that settings allow, ten lone requests take ten seconds; without, no time at all."""
    async with running(Doubler(), max_batch=100, wait_s=0) as batcher:
        started = asyncio.get_running_loop().time()
        for number in range(10):
            assert await answered(batcher, [number]) == [2 * number]
        assert asyncio.get_running_loop().time() - started < 0.5


async def test_with_a_wait_requests_that_come_one_by_one_share_a_batch() -> None:
    work = Doubler()
    async with running(work, max_batch=2, wait_s=SOON) as batcher:
        early = asyncio.create_task(answered(batcher, [1]))
        await asyncio.sleep(0.01)
        assert list(await asyncio.gather(early, answered(batcher, [2]))) == [[2], [4]]
    assert work.batches == [[1, 2]]


async def test_work_of_one_worker_never_runs_in_two_threads_at_once() -> None:
    busy = threading.Lock()

    def work(parts: list[list[int]]) -> list[int]:
        assert busy.acquire(blocking=False)
        try:
            return [*chain.from_iterable(parts)]
        finally:
            busy.release()

    async with running(work, max_batch=1) as batcher:
        assert await asyncio.gather(*(answered(batcher, [number]) for number in range(50))) == [[n] for n in range(50)]


async def test_as_many_batches_run_at_once_as_there_are_workers() -> None:
    inside, most, lock = 0, 0, threading.Lock()
    both = threading.Barrier(2, timeout=SOON)

    def work(parts: list[list[int]]) -> list[int]:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        both.wait()
        with lock:
            inside -= 1
        return [*chain.from_iterable(parts)]

    async with running(work, max_batch=1, workers=2) as batcher:
        assert await asyncio.gather(*(answered(batcher, [number]) for number in range(20))) == [[n] for n in range(20)]
    assert most == 2


@pytest.mark.parametrize("workers", [1, 3])
async def test_requests_of_any_size_get_their_results_in_order_from_any_number_of_workers(workers: int) -> None:
    sizes = [1, 2, 3, 5, 8, 13, 40]
    async with running(Doubler(), max_batch=5, workers=workers) as batcher:
        requests = [[1000 * caller + number for number in range(sizes[caller % 7])] for caller in range(60)]
        answers = await asyncio.gather(*(answered(batcher, request) for request in requests))
    assert answers == [[2 * item for item in request] for request in requests]


async def test_a_request_that_fits_a_batch_is_never_cut() -> None:
    work = Doubler()
    async with running(work, max_batch=8) as batcher:
        first = await work.hold(batcher)
        others = [asyncio.create_task(answered(batcher, [number] * 5)) for number in range(1, 5)]
        await settle()
        work.may_go_on.set()
        await asyncio.gather(first, *others)
    assert [len(batch) for batch in work.batches] == [1, 5, 5, 5, 5]


async def test_what_is_submitted_in_one_turn_shares_a_batch_even_when_the_worker_is_idle() -> None:
    work = Doubler()
    async with running(work, max_batch=100) as batcher:
        await asyncio.gather(*(answered(batcher, [number]) for number in range(30)))
    assert [len(batch) for batch in work.batches] == [30]


async def test_between_two_parts_of_a_large_request_everybody_else_gets_a_turn() -> None:
    work, done = Doubler(), list[str]()

    async def ask(name: str, items: list[int]) -> None:
        await answered(batcher, items)
        done.append(name)

    async with running(work, max_batch=4) as batcher:
        first = await work.hold(batcher)
        tasks = [asyncio.create_task(ask("bulk", [7] * 40)), asyncio.create_task(ask("other bulk", [8] * 40))]
        await settle()
        tasks += [asyncio.create_task(ask(f"small {number}", [number])) for number in (1, 2, 3)]
        await settle()
        work.may_go_on.set()
        await asyncio.gather(first, *tasks)
    assert done[:3] == ["small 1", "small 2", "small 3"]
    assert set(chain.from_iterable(work.batches[3:4])) >= {1, 2, 3}, "after one part of each that came before them"
    assert [len(batch) for batch in work.batches[1:-1]] == [4] * (len(work.batches) - 2), "and no room is left unused"


async def test_a_part_is_a_view_of_the_request_and_never_a_copy() -> None:
    pixels = np.arange(10)
    seen: list[np.ndarray] = []

    def work(parts: list[np.ndarray]) -> np.ndarray:
        seen.extend(parts)
        return np.concatenate(parts)

    batcher: Batcher[np.ndarray, np.ndarray] = Batcher(work, max_batch=4, queue_limit=100)
    await batcher.start()
    results = await batcher.submit(pixels)
    await batcher.close()
    assert np.array_equal(np.concatenate(results), pixels)
    assert len(seen) == 3
    assert all(np.shares_memory(part, pixels) for part in seen)


async def test_a_cancelled_bulk_request_costs_no_more_than_the_part_that_runs() -> None:
    work = Doubler()
    async with running(work, max_batch=4) as batcher:
        work.may_go_on.clear()
        bulk = asyncio.create_task(answered(batcher, [*range(40)]))
        assert await asyncio.to_thread(work.entered.wait, SOON)
        bulk.cancel()
        await settle()
        work.may_go_on.set()
        assert await answered(batcher, [9]) == [18]
    assert bulk.cancelled()
    assert [len(batch) for batch in work.batches] == [4, 1]


async def test_workers_that_are_free_together_share_what_waits() -> None:
    work = Doubler()
    async with running(work, max_batch=100, workers=2) as batcher:
        await asyncio.to_thread(until, lambda: batcher._free == 2)  # threads take their time to begin
        work.may_go_on.clear()  # who is done at once would come back for more
        tasks = [asyncio.create_task(answered(batcher, [number])) for number in range(9)]
        await asyncio.to_thread(until, lambda: len(work.batches) == 2)
        work.may_go_on.set()
        await asyncio.gather(*tasks)
    assert sorted(len(batch) for batch in work.batches) == [4, 5]


class Stuck:
    """Work that hangs on the numbers of `on` until it is let go, and echoes the others."""

    def __init__(self, *on: int) -> None:
        self.on, self.let_go = on, threading.Event()

    def __call__(self, parts: list[list[int]]) -> list[int]:
        items = list(chain.from_iterable(parts))
        if set(items) & set(self.on):
            self.let_go.wait(SOON)
        return items


async def test_a_batch_that_hangs_fails_and_another_thread_goes_on() -> None:
    work = Stuck(1)
    async with running(work, max_batch=1, limit_s=0.2) as batcher:
        hangs, waits = (asyncio.create_task(answered(batcher, [number])) for number in (1, 2))
        with pytest.raises(Overloaded, match="in time"):
            await hangs
        assert await waits == [2]
        assert batcher.running
        work.let_go.set()
        await asyncio.sleep(0.02)  # what it brings late is nobody's
        assert await answered(batcher, [3]) == [3]


async def test_who_is_to_hear_of_threads_that_hang_hears_of_each_once() -> None:
    told: list[str] = []
    work = Stuck(1, 2)
    batcher = Numbers(work, max_batch=1, queue_limit=10, limit_s=0.05, lost=told.append)
    await batcher.start()
    for number in (1, 2):
        with pytest.raises(Overloaded, match="in time"):
            await answered(batcher, [number])
    await asyncio.sleep(0.1)  # in which they are looked at again
    assert told == [HANGS, HANGS]
    work.let_go.set()
    await batcher.close()


async def test_where_every_batch_hangs_no_threads_are_started_without_end() -> None:
    work = Stuck(*range(100))
    async with running(work, max_batch=1, limit_s=0.1) as batcher:
        for number in range(MOST_STUCK + 1):
            with pytest.raises(Overloaded):
                await answered(batcher, [number])
        assert not batcher.running
        threads = threading.active_count()
        with pytest.raises(Overloaded, match="hangs"):
            await answered(batcher, [50])
        assert threading.active_count() == threads
        work.let_go.set()
        await asyncio.to_thread(until, lambda: batcher.running)
        assert await answered(batcher, [51]) == [51]
