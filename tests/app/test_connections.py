"""Laws of connections: how many, how long, and that the end of a server is the end of none of its answers."""

import asyncio
import resource
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from app.connections import Connection, Connections, Patience, most_connections

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
async def running(limit: int = 100, patience: Patience = SHORT) -> AsyncIterator[Running]:
    config = uvicorn.Config(echo, http=Connection, ws="none", lifespan="off", log_config=None, timeout_keep_alive=60)
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


async def test_where_no_connection_is_idle_a_newcomer_is_refused() -> None:
    async with running(limit=1, patience=Patience()) as server:
        busy, writer = await server.connect()
        writer.write(b"POST / HTTP/1.1\r\nHost: box\r\nContent-Length: 1\r\n\r\n")
        await asyncio.sleep(0.05)
        reader, refused = await server.connect()
        received = await answer(reader)
        assert received.startswith(b"HTTP/1.1 503 ")
        assert b'"code":"overloaded"' in received
        writer.write(b"x")
        assert b" 200 " in await first(busy)
        writer.close()
        refused.close()


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


@pytest.mark.parametrize(("may", "most"), [(20_000, 4096), (256, 128), (64, 32), (1, 1)])
def test_of_few_descriptors_half_are_for_callers(monkeypatch: pytest.MonkeyPatch, may: int, most: int) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (may, may))
    assert most_connections(4096) == most
