"""A request's way to its answer: present a credential, send, wait and send again, renew a token that is refused.

Decides all of it and does none of it (`steps`); knows no call of the API but that for tokens.
"""

import logging
from base64 import b64encode
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, TypeVar

import httpx

from sdb_client.errors import InvalidCredential, SdbError
from sdb_client.transport.credentials import Credentials
from sdb_client.transport.refusals import refusal
from sdb_client.transport.request import Request
from sdb_client.transport.retries import after_failure, after_refusal, failure
from sdb_client.transport.steps import Flow, Pause, Send

T = TypeVar("T")
UNREACHABLE = (httpx.HTTPError, httpx.InvalidURL, UnicodeError)  # the last for names that DNS cannot say
log = logging.getLogger("sdb_client")


@dataclass(frozen=True)
class Exchange:
    """How one client asks one server; `timeout` in seconds holds for connecting, and for each wait for bytes."""

    http: httpx.Client | httpx.AsyncClient
    base_url: str
    credentials: Credentials
    timeout: httpx.Timeout
    max_retries: int
    user_agent: str

    def with_patience(self, timeout: float | httpx.Timeout | None, max_retries: int | None) -> "Exchange":
        """The same, connections and tokens included, with another time-out and number of retries; None: as it is."""
        return replace(
            self,
            timeout=self.timeout if timeout is None else httpx.Timeout(timeout),
            max_retries=self.max_retries if max_retries is None else max_retries,
        )

    def ask(self, request: Request[T]) -> Flow[T]:
        """What the server answers.

        Raises:
            SdbError: refused, not reached, or not answered as the contract says.
        """
        bearer = yield from self.credentials.bearer(self._attempts)
        try:
            response = yield from self._attempts(request, bearer)
        except InvalidCredential:
            if not self.credentials.refused(bearer):
                raise
            bearer = yield from self.credentials.bearer(self._attempts)
            response = yield from self._attempts(request, bearer)
        return request.answer(response)

    def _attempts(self, request: Request[Any], bearer: str | None) -> Flow[httpx.Response]:
        outgoing = self._built(request, bearer)
        for attempt in count(1):
            error: SdbError
            try:
                response = yield Send(outgoing)
            except UNREACHABLE as trouble:
                error, pause = failure(trouble, self.base_url), after_failure(trouble, attempt)
                error.__cause__ = trouble
            else:
                assert isinstance(response, httpx.Response)  # noqa: S101 - that is what comes of Send
                if response.is_success:
                    return response
                error = found = refusal(response)
                pause = after_refusal(found, response.headers, attempt)
            if pause is None or attempt > self.max_retries:
                raise error
            log.info("%s %s again in %.1f s: %s", request.method, request.path, pause, error)
            yield Pause(pause)
        raise AssertionError  # count does not end

    def _built(self, request: Request[Any], bearer: str | None) -> httpx.Request:
        headers = {"User-Agent": self.user_agent, **request.headers}
        if bearer is not None:
            headers["Authorization"] = f"Bearer {bearer}"
        elif request.basic is not None:
            headers["Authorization"] = f"Basic {b64encode(':'.join(request.basic).encode()).decode()}"
        try:
            return self.http.build_request(
                request.method,
                self.base_url + request.path,
                params=request.query,
                headers=headers,
                content=request.content,
                data=request.form,
                files=request.parts,
                timeout=self.timeout,
            )
        except UNREACHABLE as trouble:
            raise failure(trouble, self.base_url) from trouble
