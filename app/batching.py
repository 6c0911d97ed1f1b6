"""Many small requests, few large batches: a bounded queue, and workers that take what waits when they are free.

Knows requests that have a length and can be cut, and results alike; knows no image, no model and no HTTP.
"""

import asyncio
import contextlib
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, Protocol, Self, TypeVar

from app.errors import Draining, ModelFailed, Overloaded

MOST_STUCK = 8  # threads that do not come back from their work: each holds memory, and no thread can be killed
LOOKS = 4  # at the workers, within the time that a batch may take
JOINED_WITHIN_S = 0.01  # of an end, before it is seen who hangs instead
HANGS, DIED = "hangs", "died"  # why a worker is given up

log = logging.getLogger("sdb.batching")


class Cuttable(Protocol):
    """Items in a row, of which a part is again items in a row: a list, an array, rows of a table."""

    def __len__(self) -> int: ...
    def __getitem__(self, part: slice, /) -> Self: ...


In = TypeVar("In", bound=Cuttable)
Out = TypeVar("Out", bound=Cuttable)


class _Request(Generic[In, Out]):
    """Items of one caller: how many of them were taken, and the results so far, by where they begin."""

    def __init__(self, items: In, answer: asyncio.Future[list[Out]]) -> None:
        self.items, self.answer = items, answer
        self.taken, self.results = 0, dict[int, Out]()

    @property
    def left(self) -> int:
        """How many items nobody has taken."""
        return len(self.items) - self.taken

    def take(self, most: int) -> tuple[int, In]:
        """At most so many of the items that are left, and where they begin; a view where the items can give one."""
        begin, self.taken = self.taken, min(self.taken + most, len(self.items))
        return begin, self.items if self.taken - begin == len(self.items) else self.items[begin : self.taken]

    def add(self, begin: int, results: Out) -> None:
        """Keep the results of a part; the last to come answers the caller. Called in the caller's event loop."""
        self.results[begin] = results
        if sum(map(len, self.results.values())) == len(self.items) and not self.answer.done():
            self.answer.set_result([part for _, part in sorted(self.results.items(), key=lambda found: found[0])])

    def fail(self, error: BaseException) -> None:
        """Answer the caller with an error. Called in the caller's event loop."""
        if not self.answer.done():
            self.answer.set_exception(error)
            self.answer.exception()  # seen, even if its caller has gone


_Part = tuple[_Request[In, Out], int, In]


class _Worker(Generic[In, Out]):
    """A thread, what it works on, and since when; one that has a successor is to end when it comes back."""

    def __init__(self, run: "Callable[[_Worker[In, Out]], None]", number: int) -> None:
        self.batch: list[_Part[In, Out]] = []
        self.since, self.succeeded = math.inf, False
        self.number = number
        self.thread = threading.Thread(target=run, args=(self,), name=f"batcher-{number}", daemon=True)

    def stuck(self, limit_s: float) -> bool:
        """Whether it has been at one batch for longer than that."""
        return time.monotonic() - self.since > limit_s


class Batcher(Generic[In, Out]):
    """Calls `work` in `workers` threads of its own, with parts of requests that have at most `max_batch` items in all.

    Whatever waits when a worker gets free becomes its next batch, so a lone request never waits for company and load
    makes its own batches; workers that are free together share what waits. All that is submitted in one turn of the
    event loop is seen together. `wait_s` > 0 lets a batch that is not full wait that long for more, and shares nothing.

    A request that fits a batch is not cut. A larger one fills what room there is, and after each part of it goes
    behind whoever waits: between two of its parts, everybody else who waits gets one.

    A batch that takes longer than `limit_s` has failed, and another thread takes the place of the one that hangs, as
    of one that died; `lost`, in the event loop, hears of it. What the old one still brings is nobody's.
    """

    def __init__(
        self,
        work: Callable[[list[In]], Out],
        *,
        max_batch: int,
        wait_s: float = 0.0,
        queue_limit: int,
        workers: int = 1,
        limit_s: float = 30.0,
        lost: Callable[[str], None] | None = None,
    ) -> None:
        self._tell_lost = lost
        self._work, self._max_batch, self._wait_s, self._queue_limit = work, max_batch, wait_s, queue_limit
        self._limit_s = limit_s
        self._queue: deque[_Request[In, Out]] = deque()
        self._waiting, self._free, self._closing, self._told = 0, 0, False, False
        self._changed = threading.Condition()  # guards all of the above, and `taken` of the requests
        self._workers = [_Worker(self._run, number) for number in range(workers)]
        self._lost: list[_Worker[In, Out]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watch: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to take batches from the queue."""
        self._loop = asyncio.get_running_loop()
        for worker in self._workers:
            worker.thread.start()
        self._watch = self._loop.create_task(self._watch_workers())

    async def close(self) -> None:
        """Finish what is queued, refuse what comes, end the threads; one that hangs ends with the process."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._watch is not None:
            await asyncio.to_thread(self._join)
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch

    def _join(self) -> None:
        while able := list(filter(self._able, self._workers)):
            able[0].thread.join(JOINED_WITHIN_S)

    @property
    def running(self) -> bool:
        """Whether an item submitted now would be worked on."""
        return self._loop is not None and not self._closing and any(map(self._able, self._workers))

    def _able(self, worker: _Worker[In, Out]) -> bool:
        return worker.thread.is_alive() and not worker.stuck(self._limit_s)

    async def _watch_workers(self) -> None:
        """See to it that no caller waits for a thread that hangs or has died."""
        while True:
            await asyncio.sleep(self._limit_s / LOOKS)
            for worker in self._workers:
                if not self._able(worker):
                    self._give_up(worker)

    def _give_up(self, worker: _Worker[In, Out]) -> None:
        """Fail its batch and let another thread take its place, unless too many hang already."""
        with self._changed:
            if self._able(worker) or (self._closing and not self._queue):
                return  # it came back just now, or has nothing more to do
            batch, worker.batch = worker.batch, []
            self._lost = [lost for lost in self._lost if lost.thread.is_alive()]
            succeeded = worker.succeeded = len(self._lost) < MOST_STUCK
        _fail(batch, Overloaded("the model did not answer in time"))
        reason = HANGS if worker.thread.is_alive() else DIED
        if self._tell_lost is not None and (succeeded or batch):
            self._tell_lost(reason)
        if succeeded:
            log.error("%s %s, its batch of %d failed; another one starts", worker.thread.name, reason, len(batch))
            self._lost.append(worker)
            successor = self._workers[self._workers.index(worker)] = _Worker(self._run, worker.number)
            successor.thread.start()
        elif batch:
            log.critical("%s %s, and so do %d before it: restart this process", worker.thread.name, reason, MOST_STUCK)

    @property
    def waiting(self) -> int:
        """How many items nobody has taken."""
        return self._waiting

    async def submit(self, items: In) -> list[Out]:
        """The results of `items`, in order, in one part or several; who is cancelled takes its items out of the queue.

        Raises:
            Overloaded: the queue has no room for all of them, or what was to answer them hangs.
            Draining: the batcher is closing.
            Exception: whatever `work` raised for a batch that held one of them.
        """
        if self._loop is None or self._closing:
            raise Draining("the server is stopping")
        if not len(items):
            return []
        request = _Request[In, Out](items, asyncio.get_running_loop().create_future())
        self._enqueue(request)
        try:
            return await request.answer
        except BaseException:
            self._forget(request)
            raise

    def _enqueue(self, request: _Request[In, Out]) -> None:
        with self._changed:
            if self._queue and self._waiting + request.left > self._queue_limit:
                raise Overloaded(f"{self._waiting} images are waiting")
            if len(self._lost) >= MOST_STUCK and not self.running:
                raise Overloaded("the model hangs")
            self._queue.append(request)
            self._waiting += request.left
            if not self._told:
                self._told = True
                asyncio.get_running_loop().call_soon(self._tell)

    def _tell(self) -> None:
        with self._changed:
            self._told = False
            self._changed.notify(self._waiting)

    def _forget(self, request: _Request[In, Out]) -> None:
        """Take out what is left of a request that failed or whose caller has gone."""
        with self._changed:
            if request in self._queue:
                self._queue.remove(request)
                self._waiting -= request.left

    def _run(self, worker: _Worker[In, Out]) -> None:
        while batch := self._next(worker):
            self._answer(batch)

    def _next(self, worker: _Worker[In, Out]) -> list[_Part[In, Out]]:
        """The next batch, once there is one; nothing at the end, or for one that has a successor."""
        with self._changed:
            worker.batch, worker.since = [], math.inf
            if worker.succeeded:
                return []
            self._free += 1
            try:
                while self._changed.wait_for(lambda: self._queue or self._closing) and self._queue:
                    if self._wait_s:
                        self._changed.wait_for(lambda: self._waiting >= self._max_batch or self._closing, self._wait_s)
                    if batch := self._take():  # else another worker was first
                        worker.batch, worker.since = batch, time.monotonic()
                        return batch
                return []
            finally:
                self._free -= 1

    def _take(self) -> list[_Part[In, Out]]:
        batch: list[_Part[In, Out]] = []
        behind: list[_Request[In, Out]] = []
        sharing = 1 if self._wait_s else self._free
        room = min(self._max_batch, -(-self._waiting // sharing))  # rounded up
        while room > 0 and self._queue:
            request = self._queue[0]
            fits = len(request.items) <= self._max_batch
            if fits and batch and request.left > room:
                break
            self._queue.popleft()
            begin, part = request.take(len(request.items) if fits else room)
            batch.append((request, begin, part))
            room -= len(part)
            self._waiting -= len(part)
            if request.left:
                behind.append(request)
        self._queue.extend(behind)
        return batch

    def _answer(self, batch: list[_Part[In, Out]]) -> None:
        """Work, and hand all results of a batch to the event loop at once."""
        try:
            results = self._work([part for _, _, part in batch])
            size = sum(len(part) for _, _, part in batch)
            if len(results) != size:
                raise RuntimeError(f"{len(results)} results for a batch of {size}")
        except Exception as error:  # it is the callers', and the thread goes on
            self._hand_over(_fail, batch, error)
        except BaseException as error:  # raised in a caller's event loop, it would end the server
            self._hand_over(_fail, batch, ModelFailed(f"the model broke off ({type(error).__name__})"))
        else:
            self._hand_over(_distribute, batch, results)

    def _hand_over(self, how: Callable[..., None], *what: object) -> None:
        assert self._loop is not None  # noqa: S101 - threads run since `start`
        with contextlib.suppress(RuntimeError):  # the loop was closed while this thread hung
            self._loop.call_soon_threadsafe(how, *what)


def _distribute(batch: list[_Part[In, Out]], results: Out) -> None:
    """Each request's part of the results; called in the event loop."""
    at = 0
    for request, begin, part in batch:
        request.add(begin, results if len(part) == len(results) else results[at : at + len(part)])
        at += len(part)


def _fail(batch: list[_Part[In, Out]], error: BaseException) -> None:
    for request, _, _ in batch:
        request.fail(error)
