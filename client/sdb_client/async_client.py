"""The awaiting client: does what a flow asks for, on the event loop that called."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Self, TypeVar

import httpx

from sdb_client.api import Api
from sdb_client.transport.calls import Awaiting, Paged
from sdb_client.transport.request import Request
from sdb_client.transport.steps import Alone, Flow, Pause, Send, Step

T = TypeVar("T")


class AsyncClient(Api[Awaiting, httpx.AsyncClient]):
    """Asks one server, and is awaited; may be shared by the tasks of one event loop."""

    _new_http, _new_lock = httpx.AsyncClient, asyncio.Lock

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections, unless they are those of an `http_client` that was given."""
        if self._own:
            await self._http.aclose()

    async def _ask(self, request: Request[T]) -> T:
        return await self._run(self._exchange.ask(request))

    async def _pages(self, first: Paged[T]) -> AsyncIterator[T]:
        cursor: str | None = None
        while True:
            page = await self._ask(first.page(cursor))
            for item in page.items:
                yield item
            cursor = page.next
            if cursor is None:
                return

    async def _run(self, flow: Flow[T]) -> T:
        try:
            step = next(flow)
            while True:
                try:
                    outcome = await self._do(step)
                except Exception as error:  # the flow decides what each means
                    step = flow.throw(error)
                else:
                    step = flow.send(outcome)
        except StopIteration as done:
            result: T = done.value
            return result

    async def _do(self, step: Step) -> Any:  # noqa: ANN401 - what each step says that comes of it
        match step:
            case Send():
                return await self._http.send(step.request)
            case Pause():
                return await asyncio.sleep(step.seconds)
            case Alone():
                async with self._lock:
                    return await self._run(step.flow)
