"""The awaiting client: does what a flow asks for, on the event loop that called."""

import asyncio
import copy
from collections.abc import AsyncIterator
from typing import Any, Self, TypeVar

import httpx

from sdb_client.api import Api
from sdb_client.options import MAX_RETRIES, TIMEOUT, Timeout, exchange
from sdb_client.transport.calls import Awaiting, Paged
from sdb_client.transport.credentials import Auth
from sdb_client.transport.request import Request
from sdb_client.transport.steps import Alone, Flow, Pause, Send, Step

T = TypeVar("T")


class AsyncClient(Api[Awaiting]):
    """Asks one server; may be shared by the tasks of one event loop.

    `api_key` and `base_url` come from `SDB_API_KEY` and `SDB_BASE_URL` when left out; `api_key=""` is a caller without
    a key. With `auth="token"` a client key is exchanged for access tokens, renewed by themselves: then the key itself
    travels seldom, but rights that the key is given later come with the next token. `timeout` in seconds is for each
    wait for the network; failures that pass are tried again up to `max_retries` times. `http_client` brings its own
    proxies, certificates and time-outs, and stays open when the client is closed.
    """

    def __init__(
        self,
        api_key: str | None = None,
        base_url: str | None = None,
        *,
        auth: Auth = "key",
        timeout: Timeout | None = None,
        max_retries: int = MAX_RETRIES,
        http_client: httpx.AsyncClient | None = None,
    ) -> None:
        self._http = http_client or httpx.AsyncClient(timeout=TIMEOUT)
        self._own = http_client is None
        patience = self._http.timeout if timeout is None else timeout
        self._exchange = exchange(self._http, api_key, base_url, auth, patience, max_retries)
        self._lock = asyncio.Lock()

    def __repr__(self) -> str:
        return f"AsyncClient({self._exchange.base_url!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections, unless they are those of an `http_client` that was given."""
        if self._own:
            await self._http.aclose()

    def with_options(self, *, timeout: Timeout | None = None, max_retries: int | None = None) -> "AsyncClient":
        """The same client, its connections and tokens, with other patience; None leaves as it is."""
        other = copy.copy(self)
        other._exchange = self._exchange.with_patience(timeout, max_retries)
        return other

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
