"""What every request passes: an id, a trace, a body within its limit and unpacked, a line in the log, a last resort.

Pure ASGI; knows nothing of models or keys.
"""

import asyncio
import contextlib
import logging
import re
import secrets
import time
from urllib.parse import quote

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.encodings import WINDOWS, Malformed, TooLarge, Unpacker
from app.errors import problem

REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}", re.ASCII)
TRACEPARENT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})", re.ASCII)
# Of a body that is too large we read on for a while, so that a client that is still sending sees the refusal.
DRAIN_FACTOR, DRAIN_FOR_S = 4, 5.0
ON_EVERY_ANSWER = ((b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"))
# What holds no image is short: who may send it need not be known to send much of it.
OF_FORMS, MAX_FORM_BYTES = ("/admin/", "/oauth2/", "/console/"), 64 * 2**10

log = logging.getLogger("sdb.http")


class _BodyRefused(Exception):
    """Raised into whoever reads the body; the middleware answers for it."""


class Gate:
    """The outermost layer."""

    def __init__(self, app: ASGIApp, max_body_bytes: int, *, log_requests: bool = True) -> None:
        self._app, self._limit, self._log_requests = app, max_body_bytes, log_requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        small = scope["path"].startswith(OF_FORMS)
        exchange = _Exchange(scope, receive, send, min(self._limit, MAX_FORM_BYTES) if small else self._limit)
        try:
            exchange.check_declared()
            await self._app(scope, exchange.receive, exchange.send)
        except (_BodyRefused, ClientDisconnect):
            pass
        except Exception:
            log.exception("request %s failed", exchange.request_id)
            await exchange.refuse("internal-error", "the failure is in the server's log under this request id")
        await exchange.refuse_body()
        if self._log_requests:
            exchange.log()


class _Exchange:
    """One request and its response, watched."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, limit: int) -> None:
        self._scope, self._receive, self._send, self._limit = scope, receive, send, limit
        self._headers = Headers(scope=scope)
        self._started, self._received, self._complete, self._status = time.perf_counter(), 0, False, 0
        self.request_id, self._traceparent = _identity(self._headers)
        self._unpacker: Unpacker | None = None
        self._refusal: tuple[str, str] | None = None
        scope["request_id"] = self.request_id

    def check_declared(self) -> None:
        """Refuse a body by its Content-Length or its Content-Encoding, before anything else is done for it."""
        declared = self._headers.get("content-length", "0")
        if declared.isdecimal() and int(declared[:20]) > self._limit:
            raise self._too_large()
        coding = ",".join(self._headers.getlist("content-encoding")).strip().lower()
        if coding in WINDOWS:
            self._unpacker = Unpacker(coding, self._limit)
        elif coding not in {"identity", ""}:
            raise self._refused("unsupported-encoding", f"a body is sent as it is, or in one of {', '.join(WINDOWS)}")

    def _refused(self, code: str, detail: str) -> _BodyRefused:
        self._refusal = code, detail
        return _BodyRefused()

    def _too_large(self) -> _BodyRefused:
        return self._refused("body-too-large", f"at most {self._limit} bytes are accepted, also when unpacked")

    async def receive(self) -> Message:
        """The next part of the request, counted: a chunked body declares no length."""
        message = await self._read()
        if self._received > self._limit:
            raise self._too_large()
        if self._unpacker is not None and message["type"] == "http.request":
            message = {**message, "body": self._unpacked(self._unpacker, message.get("body", b""))}
        return message

    def _unpacked(self, unpacker: Unpacker, part: bytes) -> bytes:
        try:
            return unpacker(part, last=self._complete)
        except TooLarge:
            raise self._too_large() from None
        except Malformed as error:
            raise self._refused("invalid-request", f"the body cannot be unpacked: {error}") from None

    async def _read(self) -> Message:
        message = await self._receive()
        self._received += len(message.get("body", b""))
        self._complete = not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        """Pass a part of the response on, unless the request is being refused here."""
        if self._refusal is not None:
            return
        if message["type"] == "http.response.start":
            self._status = message["status"]
            own = (b"x-request-id", self.request_id.encode()), (b"traceparent", self._traceparent.encode())
            message = {**message, "headers": [*message["headers"], *own, *ON_EVERY_ANSWER]}
        await self._send(message)

    async def refuse_body(self) -> None:
        """Answer for whoever was to read a body that is refused."""
        if self._refusal is not None:
            await self.drain()
            await self.refuse(*self._refusal)

    async def refuse(self, code: str, detail: str) -> None:
        """Answer with a problem, if no answer has begun."""
        self._refusal = None
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
