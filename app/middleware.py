"""What every request passes: an id, a trace, a body within its limit and unpacked, a line in the log, a last resort.

Pure ASGI; knows nothing of models or keys.
"""

import asyncio
import contextlib
import logging

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.encodings import WINDOWS, Malformed, TooLarge, Unpacker
from app.errors import problem
from app.journal import Entry, Journal

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

    def __init__(self, app: ASGIApp, max_body_bytes: int, *, journal: Journal) -> None:
        self._app, self._limit, self._journal = app, max_body_bytes, journal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        small = scope["path"].startswith(OF_FORMS)
        limit = min(self._limit, MAX_FORM_BYTES) if small else self._limit
        exchange = _Exchange(scope, receive, send, limit, self._journal)
        try:
            await self._pass(scope, exchange)
        except asyncio.CancelledError:  # by uvicorn, at the end of a drain; raised again, it would be logged as a crash
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0):  # whoever takes nothing is not waited for
                    await exchange.refuse("draining", "the server ends before this request was answered")
        finally:
            self._journal.end(exchange.closed())

    async def _pass(self, scope: Scope, exchange: "_Exchange") -> None:
        try:
            exchange.check_declared()
            await self._app(scope, exchange.receive, exchange.send)
        except (_BodyRefused, ClientDisconnect):
            pass
        except MemoryError:
            log.warning("request %s: no memory", exchange.entry.request_id)
            await exchange.refuse("overloaded", "the machine has no memory for this request")
        except Exception:
            log.exception("request %s failed", exchange.entry.request_id)
            await exchange.refuse("internal-error", "the failure is in the server's log under this request id")
        await exchange.refuse_body()


class _Exchange:
    """One request and its response, watched."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, limit: int, journal: Journal) -> None:
        self._scope, self._receive, self._send, self._limit = scope, receive, send, limit
        self._headers = Headers(scope=scope)
        self._received, self._complete = 0, False
        names = self._headers.get("x-request-id", ""), self._headers.get("traceparent", "")
        self.entry = journal.begin(scope["method"], scope["path"], *names)
        self._unpacker: Unpacker | None = None
        self._refusal: tuple[str, str] | None = None
        scope["request_id"] = self.entry.request_id

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
            self.entry.status = message["status"]
            name, parent = self.entry.request_id.encode(), self.entry.trace.parent.encode()
            own = (b"x-request-id", name), (b"traceparent", parent)
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
        if not self.entry.status:
            self._scope["code"] = code
            refusal = problem(code, detail, path=self._scope["path"], request_id=self.entry.request_id)
            await refusal(self._scope, self._receive, self.send)

    async def drain(self) -> None:
        """Read on for a while: a client that is still sending would lose the refusal with the connection."""
        if self._headers.get("expect", "").lower() == "100-continue":
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_FOR_S):
                while not self._complete and self._received < DRAIN_FACTOR * self._limit:
                    await self._read()

    def closed(self) -> Entry:
        """What is known of it when it is over."""
        self.entry.code = self._scope.get("code", "")
        self.entry.route = getattr(self._scope.get("route"), "path", "")
        return self.entry
