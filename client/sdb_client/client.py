"""The blocking client: does what a flow asks for, on the thread that called."""

import time
from collections.abc import Iterator
from threading import Lock
from typing import Any, Self, TypeVar

import httpx

from sdb_client.api import Api
from sdb_client.transport.calls import Blocking, Paged
from sdb_client.transport.request import Request
from sdb_client.transport.steps import Alone, Flow, Pause, Send, Step

T = TypeVar("T")


class Client(Api[Blocking, httpx.Client]):
    """Asks one server, and returns when the answer is there; may be shared by threads."""

    _new_http, _new_lock = httpx.Client, Lock

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections, unless they are those of an `http_client` that was given."""
        if self._own:
            self._http.close()

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
