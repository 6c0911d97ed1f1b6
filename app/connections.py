"""Connections of one server process: how many there may be, and how long a caller may take to send and to listen.

uvicorn closes a connection that is silent between two requests, and no other: a byte now and then keeps one open for
ever, and whoever opens enough of them keeps everybody else out. Knows HTTP/1.1 on the wire; knows no application.
"""

import asyncio
import enum
import logging
import resource
import secrets
from dataclasses import dataclass
from typing import cast

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle
from uvicorn.server import ServerState

from app.errors import problem
from app.joined import Joined
from app.request_heads import BoundedHead

KEEP_ALIVE_S = 75  # longer than clients and proxies keep a connection that they do not use: they are to close it first
RESERVED_DESCRIPTORS = 128  # for files, the store, and what libraries open
MOST_DESCRIPTORS = 65536

log = logging.getLogger("sdb.http")


@dataclass(frozen=True)
class Patience:
    """How long a caller may take, in seconds."""

    headers_s: float = 10.0
    """From the connection, or the first byte, to the end of the headers."""
    body_s: float = 20.0
    """From there to the end of the body; a long one has longer:"""
    body_bytes_per_s: float = 1000.0
    answer_s: float = 30.0
    """For each part that it takes of an answer."""


class Phase(enum.Enum):
    """What a connection waits for."""

    REQUEST = "the first byte of a request"
    HEADERS = "the rest of the headers"
    BODY = "the rest of the body"
    ANSWER = "the application"


class Connections(ServerState):
    """All connections, of which the one that has been idle longest gives way to a newcomer."""

    def __init__(self, limit: int, patience: Patience = Patience()) -> None:
        super().__init__()
        self.limit, self.patience, self.draining = limit, patience, False
        self.idle: dict[Connection, None] = {}

    def make_room(self, newcomer: "Connection") -> None:
        """Close the connection that has been idle longest; where all are busy, refuse the newcomer."""
        oldest = next(iter(self.idle))  # the newcomer itself is the last
        del self.idle[oldest]  # now: the next newcomer may come before the connection is lost
        if oldest is newcomer:
            newcomer.refuse("overloaded", "all connections of this server are in use")
        else:
            oldest.transport.abort()  # to close would wait for a caller who takes nothing

    def look(self, now: float) -> None:
        """Close what takes too long; `now` is the event loop's time."""
        for connection in list(self.connections):
            cast(Connection, connection).look(now)

    def drain(self) -> None:
        """Let every answer from now on be the last of its connection."""
        self.draining = True
        for connection in self.connections:
            cycle = getattr(connection, "cycle", None)
            if cycle is not None:
                cycle.keep_alive = False


class Connection(BoundedHead):
    """uvicorn's protocol, with an end to its patience."""

    server_state: Connections

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A caller has come."""
        super().connection_made(transport)
        self.transport = self._joined = Joined(transport)
        self.phase, self.since, self.received = Phase.HEADERS, self.loop.time(), 0
        self._untaken, self._untaken_since = 0, self.since
        self._answered: RequestResponseCycle | None = None
        self.server_state.idle[self] = None
        if len(self.connections) > self.server_state.limit:
            self.server_state.make_room(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone; of requests that were sent in a row, uvicorn tells the last alone."""
        self.server_state.idle.pop(self, None)
        if self._answered is not None:
            self._answered.disconnected = True
        super().connection_lost(exc)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answered = cycle
        if self.phase is Phase.BODY:
            self.since = self.loop.time()  # while it waited for its turn, nothing was read
        super()._start_asgi_task(cycle, app)

    def eof_received(self) -> bool:  # type: ignore[override]
        """The caller will send no more; one that has asked may still be told."""
        if self.phase is not Phase.ANSWER or self.cycle.response_complete:
            return False
        self.cycle.keep_alive = False
        return True

    def data_received(self, data: bytes) -> None:
        """Bytes, be they the beginning of a request or not."""
        if self.phase is Phase.REQUEST:
            self.phase, self.since = Phase.HEADERS, self.loop.time()
        self.received += len(data)
        super().data_received(data)

    def on_head(self) -> None:
        """A request is known but for its body."""
        self.judge_head()
        self.phase, self.since, self.received = Phase.BODY, self.loop.time(), 0
        self.server_state.idle.pop(self, None)
        super().on_head()
        if self.server_state.draining:
            self.cycle.keep_alive = False

    def on_request(self) -> None:
        """All of a request is here; it may have been answered before."""
        self.phase = Phase.ANSWER
        if self.cycle.response_complete:
            self.phase, self.since, self.received = Phase.HEADERS, self.loop.time(), 0
            self.server_state.idle[self] = None
        super().on_request()

    def on_response_complete(self) -> None:
        """An answer is given, be it taken or not."""
        self._joined.flush()
        if not self.pipeline and self.phase is Phase.ANSWER:
            self.phase = Phase.REQUEST
            self.server_state.idle[self] = None
        super().on_response_complete()

    def look(self, now: float) -> None:
        """Close the connection if the caller has taken too long."""
        if self._slow_to_take(now):
            self.transport.abort()
        elif self.phase is Phase.HEADERS and now - self.since > self.server_state.patience.headers_s:
            if self.received:
                self.refuse("request-timeout", "the headers came too slowly")
            else:
                self.transport.close()
        elif self.phase is Phase.BODY and not self.pipeline and self._slow_to_send(now):
            self.refuse("request-timeout", "the body came too slowly")
            self.cycle.disconnected = True  # so the application learns that no more comes, and answers into the void
            self.cycle.message_event.set()

    def _slow_to_send(self, now: float) -> bool:
        patience = self.server_state.patience
        return now - self.since > patience.body_s + self.received / patience.body_bytes_per_s

    def _slow_to_take(self, now: float) -> bool:
        untaken, before = self.transport.get_write_buffer_size(), self._untaken
        self._untaken = untaken
        if not untaken or untaken < before:
            self._untaken_since = now
        return now - self._untaken_since > self.server_state.patience.answer_s

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP is refused as anything else is."""
        self.refuse("invalid-request", msg)

    def refuse(self, code: str, detail: str) -> None:
        """Answer with a problem (RFC 9457), unless an answer has begun, and close."""
        if self.transport.is_closing():
            return
        if self.cycle is None or self.phase is Phase.HEADERS or not self.cycle.response_started:
            refusal = problem(code, detail, path=self._path(), request_id=secrets.token_hex(16))
            lines = [STATUS_LINE[refusal.status_code], b"connection: close\r\n"]
            lines += [name + b": " + value + b"\r\n" for name, value in refusal.raw_headers]
            self.transport.write(b"".join([*lines, b"\r\n", bytes(refusal.body)]))
        self.transport.close()

    def _path(self) -> str:
        return str(self.scope.get("path", "")) if self.scope else ""


def most_connections(wanted: int) -> int:
    """So many as are wanted, if the process may have so many descriptors; it is given all that it may have.

    Where they are few, half of them are for callers.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    may = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < may:
        resource.setrlimit(resource.RLIMIT_NOFILE, (may, hard))
    else:
        may = soft
    if may == resource.RLIM_INFINITY:
        return wanted
    most = max(1, min(wanted, may - min(RESERVED_DESCRIPTORS, may // 2)))
    if most < wanted:
        log.warning("with %d descriptors there is room for %d connections, not for %d", may, most, wanted)
    return most
