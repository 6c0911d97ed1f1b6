"""Many small requests, few large batches: one worker, a bounded queue, no timer when it is idle.

Knows items and results; knows no image, no model and no HTTP.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from app.errors import Draining, Overloaded

In = TypeVar("In")
Out = TypeVar("Out")


class Batcher(Generic[In, Out]):
    """Calls `work` in a thread of its own with at most `max_batch` items at a time.

    Whatever waits when the worker gets free becomes the next batch, so a lone request never waits for company and
    load makes its own batches; `wait_s` > 0 lets a batch that is not full wait that long for more.
    """

    def __init__(
        self, work: Callable[[list[In]], Sequence[Out]], *, max_batch: int, wait_s: float, queue_limit: int
    ) -> None:
        self._work, self._max_batch, self._wait_s, self._queue_limit = work, max_batch, wait_s, queue_limit
        self._queue: deque[tuple[In, asyncio.Future[Out]]] = deque()
        self._filled, self._closing = asyncio.Event(), False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batcher")
        self._runner: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to take batches from the queue."""
        self._runner = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Finish what is queued, refuse what comes, end the thread."""
        self._closing = True
        self._filled.set()
        if self._runner is not None:
            await self._runner
        self._thread.shutdown(wait=True)

    @property
    def running(self) -> bool:
        """Whether an item submitted now would be worked on."""
        return self._runner is not None and not self._runner.done() and not self._closing

    async def submit(self, items: Sequence[In]) -> list[Out]:
        """The results of `items`, in order; a caller that is cancelled takes its items out of the queue.

        Raises:
            Overloaded: the queue has no room for all of them.
            Draining: the batcher is closing.
            Exception: whatever `work` raised for a batch that held one of them.
        """
        if not self.running:
            raise Draining("the server is stopping")
        if self._queue and len(self._queue) + len(items) > self._queue_limit:
            raise Overloaded(f"{len(self._queue)} images are waiting")
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[Out]] = [loop.create_future() for _ in items]
        self._queue.extend(zip(items, futures, strict=True))
        self._filled.set()
        try:
            return list(await asyncio.gather(*futures))
        except BaseException:
            for future in futures:
                future.cancel()
            self._queue = deque(entry for entry in self._queue if not entry[1].done())
            raise

    async def _run(self) -> None:
        while self._queue or not self._closing:
            self._filled.clear()
            if not self._queue:
                await self._filled.wait()
            if self._wait_s and len(self._queue) < self._max_batch and not self._closing:
                await asyncio.sleep(self._wait_s)
            batch = self._take()
            if batch:
                await self._answer(batch)

    def _take(self) -> list[tuple[In, asyncio.Future[Out]]]:
        batch: list[tuple[In, asyncio.Future[Out]]] = []
        while self._queue and len(batch) < self._max_batch:
            item, future = self._queue.popleft()
            if not future.done():
                batch.append((item, future))
        return batch

    async def _answer(self, batch: list[tuple[In, asyncio.Future[Out]]]) -> None:
        loop = asyncio.get_running_loop()
        try:
            results = await loop.run_in_executor(self._thread, self._work, [item for item, _ in batch])
            if len(results) != len(batch):
                raise RuntimeError(f"{len(results)} results for a batch of {len(batch)}")
        except Exception as error:
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
                    future.exception()  # seen, even if its caller has gone
            return
        for (_, future), result in zip(batch, results, strict=True):
            if not future.done():
                future.set_result(result)
