"""What every request passes: an id, a trace, a limit on its body, a line in the log, and a last resort.

Pure ASGI; knows nothing of models or keys.
"""

import asyncio
import contextlib
import logging
import re
import secrets
import time
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import problem

REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}", re.ASCII)
TRACEPARENT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})", re.ASCII)
# Of a body that is too large we read on for a while, so that a client that is still sending sees the refusal.
DRAIN_FACTOR, DRAIN_FOR_S = 4, 5.0

log = logging.getLogger("sdb.http")


class _BodyTooLarge(Exception):
    """Raised into whoever reads the body; the middleware answers for it."""


class Gate:
    """The outermost layer."""

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        self._app, self._limit = app, max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send, self._limit)
        try:
            exchange.check_declared_length()
            await self._app(scope, exchange.receive, exchange.send)
        except (_BodyTooLarge, ClientDisconnect):
            pass
        except Exception:
            log.exception("request %s failed", exchange.request_id)
            await exchange.refuse("internal-error", "the failure is in the server's log under this request id")
        if exchange.too_large:
            await exchange.drain()
            await exchange.refuse("body-too-large", f"at most {self._limit} bytes are accepted")
        exchange.log()


class _Exchange:
    """One request and its response, watched."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, limit: int) -> None:
        self._scope, self._receive, self._send, self._limit = scope, receive, send, limit
        self._headers = Headers(scope=scope)
        self._started, self._received, self._complete, self._status = time.perf_counter(), 0, False, 0
        self.request_id, self._traceparent = _identity(self._headers)
        self.too_large = False
        scope["request_id"] = self.request_id

    def check_declared_length(self) -> None:
        """Refuse a body by its Content-Length, before anything else is done for it."""
        declared = self._headers.get("content-length", "0")
        self.too_large = declared.isdecimal() and int(declared[:20]) > self._limit
        if self.too_large:
            raise _BodyTooLarge

    async def receive(self) -> Message:
        """The next part of the request, counted: a chunked body declares no length."""
        message = await self._read()
        if self._received > self._limit:
            self.too_large = True
            raise _BodyTooLarge
        return message

    async def _read(self) -> Message:
        message = await self._receive()
        self._received += len(message.get("body", b""))
        self._complete = not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        """Pass a part of the response on, unless the request is being refused here."""
        if self.too_large:
            return
        if message["type"] == "http.response.start":
            self._status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-ID"], headers["traceparent"] = self.request_id, self._traceparent
            headers["X-Content-Type-Options"], headers["Referrer-Policy"] = "nosniff", "no-referrer"
        await self._send(message)

    async def refuse(self, code: str, detail: str) -> None:
        """Answer with a problem, if no answer has begun."""
        self.too_large = False
        if not self._status:
            refusal = problem(code, detail, path=self._scope["path"], request_id=self.request_id)
            await refusal(self._scope, self._receive, self.send)

    async def drain(self) -> None:
        """Read on for a while: a client that is still sending would lose the refusal with the connection."""
        if self._headers.get("expect", "").lower() == "100-continue":
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_FOR_S):
                while not self._complete and self._received < DRAIN_FACTOR * self._limit:
                    await self._read()

    def log(self) -> None:
        """One line for each request."""
        elapsed = 1000 * (time.perf_counter() - self._started)
        path = quote(self._scope["path"])  # a decoded path may hold line breaks
        log.info("%s %s %d %.1f ms %s", self._scope["method"], path, self._status, elapsed, self.request_id)


def _identity(headers: Headers) -> tuple[str, str]:
    """The request's id and `traceparent` (W3C Trace Context): the caller's if well-formed, else new ones."""
    request_id = headers.get("x-request-id", "")
    if not REQUEST_ID.fullmatch(request_id):
        request_id = secrets.token_hex(16)
    trace = TRACEPARENT.fullmatch(headers.get("traceparent", ""))
    trace_id, flags = (trace[1], trace[2]) if trace else (secrets.token_hex(16), "00")
    return request_id, f"00-{trace_id}-{secrets.token_hex(8)}-{flags}"
