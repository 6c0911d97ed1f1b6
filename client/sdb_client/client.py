"""The blocking client: does what a flow asks for, on the thread that called."""

import copy
import time
from collections.abc import Iterator
from threading import Lock
from typing import Any, Self, TypeVar

import httpx

from sdb_client.api import Api
from sdb_client.options import MAX_RETRIES, TIMEOUT, Timeout, exchange
from sdb_client.transport.calls import Blocking, Paged
from sdb_client.transport.credentials import Auth
from sdb_client.transport.request import Request
from sdb_client.transport.steps import Alone, Flow, Pause, Send, Step

T = TypeVar("T")


class Client(Api[Blocking]):
    """Asks one server; may be shared by threads.

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
        http_client: httpx.Client | None = None,
    ) -> None:
        self._http = http_client or httpx.Client(timeout=TIMEOUT)
        self._own = http_client is None
        patience = self._http.timeout if timeout is None else timeout
        self._exchange = exchange(self._http, api_key, base_url, auth, patience, max_retries)
        self._lock = Lock()

    def __repr__(self) -> str:
        return f"Client({self._exchange.base_url!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections, unless they are those of an `http_client` that was given."""
        if self._own:
            self._http.close()

    def with_options(self, *, timeout: Timeout | None = None, max_retries: int | None = None) -> "Client":
        """The same client, its connections and tokens, with other patience; None leaves as it is."""
        other = copy.copy(self)
        other._exchange = self._exchange.with_patience(timeout, max_retries)
        return other

    def _ask(self, request: Request[T]) -> T:
        return self._run(self._exchange.ask(request))

    def _pages(self, first: Paged[T]) -> Iterator[T]:
        cursor: str | None = None
        while True:
            page = self._ask(first.page(cursor))
            yield from page.items
            cursor = page.next
            if cursor is None:
                return

    def _run(self, flow: Flow[T]) -> T:
        try:
            step = next(flow)
            while True:
                try:
                    outcome = self._do(step)
                except Exception as error:  # the flow decides what each means
                    step = flow.throw(error)
                else:
                    step = flow.send(outcome)
        except StopIteration as done:
            result: T = done.value
            return result

    def _do(self, step: Step) -> Any:  # noqa: ANN401 - what each step says that comes of it
        match step:
            case Send():
                return self._http.send(step.request)
            case Pause():
                return time.sleep(step.seconds)
            case Alone():
                with self._lock:
                    return self._run(step.flow)
