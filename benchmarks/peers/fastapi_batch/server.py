"""FastAPI as a careful engineer writes it: raw body, a queue, batches of what came within 2 ms, one model thread."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request
from pydantic import BaseModel

from benchmarks.peers.work import Work

WAIT_S = 0.002
Item = tuple[bytes, "asyncio.Future[list[float]]"]


class Answer(BaseModel):
    """One probability per class."""

    probabilities: list[float]


class Batcher:
    """Collects images for at most 2 ms after the first one, and runs them in one forward pass."""

    def __init__(self, work: Work) -> None:
        self._work, self._queue = work, asyncio.Queue[Item]()
        self._thread = ThreadPoolExecutor(1)

    async def submit(self, image: bytes) -> list[float]:
        """Its probabilities."""
        future: asyncio.Future[list[float]] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((image, future))
        return await future

    async def run(self) -> None:
        """Answer batches until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            items = await self._collect()
            answers = await loop.run_in_executor(self._thread, self._answer, [image for image, _ in items])
            for (_, future), answer in zip(items, answers, strict=True):
                future.set_result(answer)

    async def _collect(self) -> list[Item]:
        items = [await self._queue.get()]
        try:
            async with asyncio.timeout(WAIT_S):
                while len(items) < self._work.subject.max_batch:
                    items.append(await self._queue.get())
        except TimeoutError:
            pass
        return items

    def _answer(self, images: list[bytes]) -> list[list[float]]:
        return self._work.predict([self._work.decode(image) for image in images])


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """The batcher runs as long as the application."""
    app.state.batcher = Batcher(Work(Path.cwd()))
    task = asyncio.create_task(app.state.batcher.run())
    yield
    task.cancel()


app = FastAPI(lifespan=lifespan)


@app.post("/predict")
async def predict(request: Request) -> Answer:
    """Classify the image that is the body."""
    return Answer(probabilities=await request.app.state.batcher.submit(await request.body()))
