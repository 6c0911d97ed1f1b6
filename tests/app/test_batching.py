"""Many small requests become few batches, and nobody is forgotten."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest

from app.batching import Batcher
from app.errors import Draining, Overloaded

SOON = 5.0  # seconds after which a test that waits has failed
Work = Callable[[list[int]], Sequence[int]]


class Doubler:
    """Work that doubles numbers, remembers its batches, and can be held up and made to fail."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.entered, self.may_go_on = threading.Event(), threading.Event()
        self.may_go_on.set()

    def __call__(self, items: list[int]) -> list[int]:
        self.batches.append(items)
        self.entered.set()
        assert self.may_go_on.wait(SOON)
        if any(item < 0 for item in items):
            raise ArithmeticError("negative")
        return [2 * item for item in items]

    async def hold(self, batcher: Batcher[int, int]) -> asyncio.Task[list[int]]:
        """Keep the worker busy with the item 0 until `may_go_on` is set."""
        self.may_go_on.clear()
        self.entered.clear()
        task = asyncio.create_task(batcher.submit([0]))
        assert await asyncio.to_thread(self.entered.wait, SOON)
        return task


@asynccontextmanager
async def running(
    work: Work, max_batch: int = 4, wait_s: float = 0, queue_limit: int = 1000
) -> AsyncIterator[Batcher[int, int]]:
    batcher: Batcher[int, int] = Batcher(work, max_batch=max_batch, wait_s=wait_s, queue_limit=queue_limit)
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
        answers = await asyncio.gather(*(batcher.submit(request) for request in requests))
    assert answers == [[2 * item for item in request] for request in requests]


async def test_what_waits_while_the_worker_is_busy_becomes_few_full_batches() -> None:
    work = Doubler()
    async with running(work, max_batch=8) as batcher:
        first = await work.hold(batcher)
        others = [asyncio.create_task(batcher.submit([number])) for number in range(1, 21)]
        await settle()
        work.may_go_on.set()
        await asyncio.gather(first, *others)
    assert [len(batch) for batch in work.batches] == [1, 8, 8, 4]


async def test_a_batch_is_never_larger_than_allowed() -> None:
    work = Doubler()
    async with running(work, max_batch=3) as batcher:
        await asyncio.gather(batcher.submit(range(10)), batcher.submit(range(5)), batcher.submit([1]))
    assert max(len(batch) for batch in work.batches) == 3
    assert sum(len(batch) for batch in work.batches) == 16


async def test_a_failure_reaches_every_caller_of_its_batch_and_no_other() -> None:
    work = Doubler()
    async with running(work, max_batch=2) as batcher:
        first = await work.hold(batcher)
        tasks = [asyncio.create_task(batcher.submit([number])) for number in (-1, 5, 6, 7)]
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
            await batcher.submit([1, 2, 3, -4, 5, 6])
        assert await batcher.submit([9]) == [18]


@pytest.mark.parametrize("results", [[], [1], [1, 2, 3]])
async def test_a_wrong_number_of_results_is_an_error_and_not_an_answer(results: list[int]) -> None:
    async with running(lambda _: results) as batcher:
        with pytest.raises(RuntimeError, match=f"{len(results)} results for a batch of 2"):
            await batcher.submit([1, 2])


async def test_a_cancelled_caller_costs_no_work_and_holds_nobody_up() -> None:
    work = Doubler()
    async with running(work, max_batch=4) as batcher:
        first = await work.hold(batcher)
        gone = asyncio.create_task(batcher.submit([11, 12]))
        stays = asyncio.create_task(batcher.submit([13]))
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
        assert await batcher.submit([4]) == [8]
    assert first.cancelled()


async def test_a_cancelled_caller_gives_its_place_in_the_queue_back() -> None:
    work = Doubler()
    async with running(work, queue_limit=2) as batcher:
        first = await work.hold(batcher)
        gone = asyncio.create_task(batcher.submit([1, 2]))
        await settle()
        gone.cancel()
        await settle()
        late = asyncio.create_task(batcher.submit([3]))
        await settle()
        work.may_go_on.set()
        assert list(await asyncio.gather(first, late)) == [[0], [6]]


async def test_a_full_queue_refuses_the_newcomer_and_serves_who_was_there() -> None:
    work = Doubler()
    async with running(work, queue_limit=3) as batcher:
        first = await work.hold(batcher)
        waiting = asyncio.create_task(batcher.submit([1, 2]))
        await settle()
        with pytest.raises(Overloaded):
            await batcher.submit([3, 4])
        fits = asyncio.create_task(batcher.submit([5]))
        await settle()
        with pytest.raises(Overloaded):
            await batcher.submit([6])
        work.may_go_on.set()
        assert list(await asyncio.gather(first, waiting, fits)) == [[0], [2, 4], [10]]
        assert await batcher.submit([7]) == [14]


async def test_closing_finishes_what_is_queued_and_refuses_what_comes() -> None:
    work = Doubler()
    async with running(work, max_batch=2) as batcher:
        first = await work.hold(batcher)
        queued = [asyncio.create_task(batcher.submit([number, number])) for number in (1, 2, 3)]
        await settle()
        closing = asyncio.create_task(batcher.close())
        await settle()
        assert not batcher.running
        with pytest.raises(Draining):
            await batcher.submit([9])
        work.may_go_on.set()
        await closing
        assert list(await asyncio.gather(first, *queued)) == [[0], [2, 2], [4, 4], [6, 6]]
        with pytest.raises(Draining):
            await batcher.submit([9])


async def test_a_batcher_that_was_never_started_closes_and_accepts_nothing() -> None:
    batcher: Batcher[int, int] = Batcher(Doubler(), max_batch=1, wait_s=0, queue_limit=1)
    assert not batcher.running
    with pytest.raises(Draining):
        await batcher.submit([1])
    await batcher.close()


async def test_a_lone_request_does_not_wait_for_company() -> None:
    """With the longest wait that settings allow, ten lone requests take ten seconds; without, no time at all."""
    async with running(Doubler(), max_batch=100, wait_s=0) as batcher:
        started = asyncio.get_running_loop().time()
        for number in range(10):
            assert await batcher.submit([number]) == [2 * number]
        assert asyncio.get_running_loop().time() - started < 0.5


async def test_with_a_wait_requests_that_come_one_by_one_share_a_batch() -> None:
    work = Doubler()
    async with running(work, max_batch=3, wait_s=0.1) as batcher:
        early = asyncio.create_task(batcher.submit([1]))
        await asyncio.sleep(0.01)
        assert list(await asyncio.gather(early, batcher.submit([2]))) == [[2], [4]]
    assert work.batches == [[1, 2]]


async def test_work_never_runs_in_two_threads_at_once() -> None:
    busy = threading.Lock()

    def work(items: list[int]) -> list[int]:
        assert busy.acquire(blocking=False)
        try:
            return items
        finally:
            busy.release()

    async with running(work, max_batch=1) as batcher:
        assert await asyncio.gather(*(batcher.submit([number]) for number in range(50))) == [[n] for n in range(50)]
