"""Laws of connections: how many, how long, and that the end of a server is the end of none of its answers."""

import asyncio
import logging
import resource
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from app.connections import Connection, Connections, Patience, most_connections
from app.journal import Journal
from app.middleware import Gate

SHORT = Patience(headers_s=0.2, body_s=0.2, body_bytes_per_s=1000)
SOON = 30.0  # seconds after which a test that waits has failed
GET = b"GET / HTTP/1.1\r\nHost: box\r\n\r\n"
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def echo(_: Scope, receive: Receive, send: Send) -> None:
    """An application that answers when it has all of the body."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body, more = body + message.get("body", b""), message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


class Running:
    """A server on a port of its own, which looks at its connections twenty times a second."""

    def __init__(self, connections: Connections, port: int) -> None:
        self.connections, self._port = connections, port

    async def connect(self) -> Streams:
        return await asyncio.open_connection("127.0.0.1", self._port)


async def looking(connections: Connections) -> None:
    while True:
        await asyncio.sleep(0.05)
        connections.look(asyncio.get_running_loop().time())


@asynccontextmanager
async def running(
    limit: int = 100, patience: Patience = SHORT, app: ASGIApp = echo, drain_s: int | None = None
) -> AsyncIterator[Running]:
    config = uvicorn.Config(app, http=Connection, ws="none", lifespan="off", log_config=None, timeout_keep_alive=60)
    config.timeout_graceful_shutdown = drain_s
    server = uvicorn.Server(config)
    server.server_state = connections = Connections(limit, patience)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config.load()
        server.lifespan = config.lifespan_class(config)
        await server.startup([listener])
        look = asyncio.create_task(looking(connections))
        try:
            async with asyncio.timeout(SOON):
                yield Running(connections, listener.getsockname()[1])
        finally:
            look.cancel()
            await server.shutdown([listener])


async def answer(reader: asyncio.StreamReader) -> bytes:
    """Up to the end of the connection."""
    return await reader.read()


async def first(reader: asyncio.StreamReader) -> bytes:
    """The head of one answer without a body."""
    return await reader.readuntil(b"\r\n\r\n")


async def test_an_answer_leaves_in_one_piece_and_a_head_alone_leaves_too() -> None:
    async with running() as server:
        reader, writer = await server.connect()
        writer.write(b"POST / HTTP/1.1\r\nHost: box\r\nContent-Length: 2\r\n\r\nok")
        assert (await reader.read(2**16)).endswith(b"\r\n\r\nok")
        writer.write(b"HEAD / HTTP/1.1\r\nHost: box\r\n\r\n")
        assert (await first(reader)).startswith(b"HTTP/1.1 200")
        writer.close()


async def test_headers_that_do_not_end_are_refused() -> None:
    async with running() as server:
        reader, writer = await server.connect()
        writer.write(b"GET / HTTP/1.1\r\n")
        received = await answer(reader)
        writer.close()
    assert received.startswith(b"HTTP/1.1 408 ")
    assert b'"code":"request-timeout"' in received


async def test_a_caller_who_says_nothing_is_let_go_without_a_word() -> None:
    async with running() as server:
        reader, writer = await server.connect()
        assert await answer(reader) == b""
        writer.close()


async def test_a_body_that_does_not_end_is_refused_and_one_that_goes_on_is_not() -> None:
    head = b"POST / HTTP/1.1\r\nHost: box\r\nConnection: close\r\nContent-Length: 3000\r\n\r\n"
    async with running() as server:
        stalled, crawling = await server.connect(), await server.connect()
        for _, writer in (stalled, crawling):
            writer.write(head)
        for _ in range(10):
            crawling[1].write(300 * b"x")
            await asyncio.sleep(0.05)
        assert (await answer(stalled[0])).startswith(b"HTTP/1.1 408 ")
        assert (await answer(crawling[0])).startswith(b"HTTP/1.1 200 ")
        for _, writer in (stalled, crawling):
            writer.close()


async def test_the_connection_that_is_idle_longest_gives_way() -> None:
    async with running(limit=2, patience=Patience()) as server:
        kept = [await server.connect() for _ in range(2)]
        for reader, writer in kept:
            writer.write(GET)
            await first(reader)
        newcomer = await server.connect()
        newcomer[1].write(GET)
        assert b" 200 " in await first(newcomer[0])
        assert await answer(kept[0][0]) == b"", "it is closed"
        kept[1][1].write(GET)
        assert b" 200 " in await first(kept[1][0])
        for _, writer in (*kept, newcomer):
            writer.close()


async def halfway(server: Running) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection that is busy: of a request with a body of one byte, that byte is still to come."""
    reader, writer = await server.connect()
    writer.write(b"POST / HTTP/1.1\r\nHost: box\r\nContent-Length: 1\r\n\r\n")
    await asyncio.sleep(0.05)
    return reader, writer


async def test_where_no_connection_is_idle_a_newcomer_is_refused() -> None:
    async with running(limit=1, patience=Patience()) as server:
        busy, writer = await halfway(server)
        reader, refused = await server.connect()
        received = await answer(reader)
        assert received.startswith(b"HTTP/1.1 503 ")
        assert b'"code":"overloaded"' in received
        writer.write(b"x")
        assert b" 200 " in await first(busy)
        writer.close()
        refused.close()


MUCH = 2**24  # bytes, which no socket's buffers hold


async def generous(scope: Scope, _: Receive, send: Send) -> None:
    """An application that answers with much to whoever asks for it."""
    size = MUCH if scope["path"] == "/much" else 0
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % size)]})
    await send({"type": "http.response.body", "body": bytes(size)})


async def test_who_takes_nothing_does_not_make_room_for_all() -> None:
    limit = 5
    async with running(limit, Patience(), generous) as server:
        _, greedy = await server.connect()
        greedy.write(b"GET /much HTTP/1.1\r\nHost: box\r\n\r\n")
        await asyncio.sleep(0.05)
        others = [greedy]
        for _ in range(3 * limit):
            reader, writer = await server.connect()
            others.append(writer)
            writer.write(GET)
            assert b" 200 " in await first(reader)
            assert len(server.connections.connections) <= limit
        for writer in others:
            writer.close()


async def test_newcomers_who_are_refused_make_room_for_none() -> None:
    async with running(limit=1, patience=Patience()) as server:
        _, writer = await halfway(server)
        refused = await asyncio.gather(*(server.connect() for _ in range(20)))
        for reader, _ in refused:
            assert (await answer(reader)).startswith(b"HTTP/1.1 503 ")
        assert len(server.connections.connections) == 1
        assert not server.connections.idle
        for _, each in (*refused, ("", writer)):
            each.close()


async def slow_to_answer(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that takes longer than a caller may take for a body."""
    if scope["path"] == "/slow":
        await asyncio.sleep(5 * SHORT.body_s)
    await echo(scope, receive, send)


async def test_the_patience_with_a_body_begins_when_it_is_read() -> None:
    size = 2**22  # more than the server reads while an earlier request is answered
    async with running(patience=Patience(body_s=SHORT.body_s, body_bytes_per_s=1e9), app=slow_to_answer) as server:
        reader, writer = await server.connect()
        writer.write(b"GET /slow HTTP/1.1\r\nHost: box\r\n\r\n")
        writer.write(b"POST / HTTP/1.1\r\nHost: box\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % size)
        writer.write(bytes(size))
        assert b" 200 " in await first(reader)
        assert b" 200 " in await first(reader)
        writer.close()


async def test_who_closes_its_half_is_still_answered() -> None:
    async with running() as server:
        reader, writer = await server.connect()
        writer.write(GET)
        writer.write_eof()
        assert (await answer(reader)).startswith(b"HTTP/1.1 200 ")
        writer.close()


@pytest.mark.parametrize("early", [True, False])
async def test_a_draining_server_ends_each_connection_with_an_answer(early: bool) -> None:
    async with running() as server:
        reader, writer = await server.connect()
        if early:
            server.connections.drain()
        writer.write(b"POST / HTTP/1.1\r\nHost: box\r\nContent-Length: 2\r\n\r\nx")
        await asyncio.sleep(0.05)
        server.connections.drain()
        writer.write(b"x")
        received = await answer(reader)
        writer.close()
    assert received.startswith(b"HTTP/1.1 200 ")
    assert b"connection: close" in received


async def test_whom_the_end_of_a_drain_cuts_off_is_told_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        async with running(app=Gate(echo, 1000, journal=Journal()), patience=Patience(), drain_s=1) as server:
            reader, writer = await server.connect()
            writer.write(b"POST / HTTP/1.1\r\nHost: box\r\nContent-Length: 2\r\n\r\nx")
            await asyncio.sleep(0.05)
        received = await answer(reader)
        writer.close()
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ")
    assert {b"retry-after: 5", b"content-type: application/problem+json", b"connection: close"} <= set(
        head.split(b"\r\n")
    )
    assert b'"code":"draining"' in body
    assert not [record for record in caplog.records if record.exc_info]


async def test_whoever_takes_nothing_does_not_hold_up_the_end() -> None:
    """Its second request waits for room behind the first answer, and so would a refusal."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] != "/much":
            await asyncio.Event().wait()
        await generous(scope, receive, send)

    async with running(app=Gate(app, 1000, journal=Journal()), patience=Patience(), drain_s=1) as server:
        _, writer = await server.connect()
        writer.write(b"GET /much HTTP/1.1\r\nHost: box\r\n\r\n" + GET)
        await asyncio.sleep(0.1)
    (task,) = {task for task in asyncio.all_tasks() if "run_asgi" in repr(task)}
    await asyncio.sleep(0.05)
    task.cancel()  # as the event loop does to whatever is left
    await asyncio.wait([task], timeout=1)
    assert task.done()
    writer.transport.abort()


@pytest.mark.parametrize(("may", "most"), [(20_000, 4096), (256, 128), (64, 32), (1, 1)])
def test_of_few_descriptors_half_are_for_callers(monkeypatch: pytest.MonkeyPatch, may: int, most: int) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (may, may))
    assert most_connections(4096) == most
