"""What is no HTTP/1.1 request, or two that look like one, is refused on the wire; nobody's headers grow without end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from app.connections import Connection, Connections
from app.request_heads import MAX_UNREAD_BYTES

SECOND = b"GET /second HTTP/1.1\r\nHost: box\r\nConnection: close\r\n\r\n"
POST = b"POST /first HTTP/1.1\r\nHost: box\r\n"


class Echo:
    """Answers 200 when it has read the whole body; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[bytes, bytes], bytes]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        body = b""
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body, more = body + message["body"], message["more_body"]
        self.asked.append((scope["path"], dict(scope["headers"]), body))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})


class Wire:
    """The protocol of our servers around an `Echo`, on a port of its own."""

    def __init__(self, server: asyncio.Server, echo: Echo) -> None:
        self.echo, self.port = echo, server.sockets[0].getsockname()[1]

    async def said(self, *parts: bytes) -> bytes:
        """Everything that is answered to these bytes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        found = b""
        with suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(20):
                for part in parts:
                    writer.write(part)
                    await writer.drain()
                    await asyncio.sleep(0.01)
                while part := await reader.read(2**16):
                    found += part
        writer.close()
        return found


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    echo = Echo()
    config = uvicorn.Config(echo, http=Connection, ws="none", lifespan="off")
    config.load()
    state, loop = Connections(limit=100), asyncio.get_running_loop()
    async with await loop.create_server(lambda: Connection(config, state, {}), "127.0.0.1", 0) as server:
        yield Wire(server, echo)


SMUGGLED = {
    "two lengths": POST + b"Content-Length: 5\r\nContent-Length: 0\r\n\r\nhello" + SECOND,
    "a length and a transfer coding": POST
    + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    + SECOND,
    "a transfer coding and a length": POST
    + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"
    + SECOND,
    "chunked, but not last": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + SECOND,
    "a list of lengths": POST + b"Content-Length: 5, 5\r\n\r\nhello" + SECOND,
    "a signed length": POST + b"Content-Length: +5\r\n\r\nhello" + SECOND,
    "a negative length": POST + b"Content-Length: -1\r\n\r\n" + SECOND,
    "a length in hexadecimal": POST + b"Content-Length: 0x5\r\n\r\nhello" + SECOND,
    "a length beyond 64 bits": POST + b"Content-Length: 18446744073709551621\r\n\r\nhello" + SECOND,
    "a space before the colon": POST + b"Content-Length : 5\r\n\r\nhello" + SECOND,
    "a folded header": POST + b"X-A: a\r\n Content-Length: 5\r\n\r\nhello" + SECOND,
    "a NUL in a header": POST + b"X-A: a\0b\r\n\r\n" + SECOND,
    "a line feed in a name": POST + b"X\nA: b\r\n\r\n" + SECOND,
    "a carriage return in a value": POST + b"X-A: a\rContent-Length: 5\r\n\r\n" + SECOND,
    "a chunk size that is none": POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n" + SECOND,
    "a chunk size beyond 64 bits": POST + b"Transfer-Encoding: chunked\r\n\r\n10000000000000005\r\nhello" + SECOND,
    "a chunk longer than it says": POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhello\r\n0\r\n\r\n" + SECOND,
    "a length behind the body": POST
    + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nContent-Length: 9\r\n\r\n"
    + SECOND,
    "another protocol": b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + bytes(64),
}


@pytest.mark.parametrize("sent", SMUGGLED.values(), ids=SMUGGLED.keys())
async def test_no_second_request_hides_in_the_body_of_a_first(wire: Wire, sent: bytes) -> None:
    answer = await wire.said(sent)
    assert [path for path, _, _ in wire.echo.asked if path == "/second"] == []
    assert b" 200 " not in answer
    assert answer.count(b"HTTP/1.1 ") <= 1
    assert b" 5" not in answer[8:13]


async def test_two_requests_in_one_write_are_two(wire: Wire) -> None:
    answer = await wire.said(POST + b"Content-Length: 5\r\n\r\nhello" + SECOND)
    assert [(path, body) for path, _, body in wire.echo.asked] == [("/first", b"hello"), ("/second", b"")]
    assert answer.count(b"HTTP/1.1 200 ") == 2


TWICE = {
    "no host": b"GET /first HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /first HTTP/1.1\r\nHost: box\r\nHost: other\r\n\r\n",
    "the same host twice": b"GET /first HTTP/1.1\r\nHost: box\r\nhost: box\r\n\r\n",
    "two hosts of HTTP/1.0": b"GET /first HTTP/1.0\r\nHost: box\r\nHost: other\r\n\r\n",
    "two credentials": POST + b"Authorization: Bearer a\r\nAuthorization: Bearer b\r\n\r\n",
}


@pytest.mark.parametrize("before", [b"", b"GET /before HTTP/1.1\r\nHost: box\r\n\r\n"], ids=["first", "later"])
@pytest.mark.parametrize("sent", TWICE.values(), ids=TWICE.keys())
async def test_a_head_that_can_be_read_in_two_ways_is_refused_with_all_behind_it(
    wire: Wire, before: bytes, sent: bytes
) -> None:
    answer = await wire.said(*([before] if before else []), sent + SECOND)
    assert [path for path, _, _ in wire.echo.asked] == ["/before"] * bool(before)
    assert answer.count(b"HTTP/1.1 400 ") == 1
    assert answer.count(b"HTTP/1.1 ") == 1 + bool(before)


UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n"
LONG = b"Content-Length: %d\r\n\r\n" % len(SECOND) + SECOND
IN_CHUNKS = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n" % (len(SECOND), SECOND)
UPGRADED = {
    "a length": (POST + UPGRADE + LONG, SECOND),
    "chunks": (POST + UPGRADE + IN_CHUNKS + b"\r\n", SECOND),
    "trailers that ask again": (POST + UPGRADE + IN_CHUNKS + UPGRADE + b"\r\n", SECOND),
    "trailers alone": (POST + IN_CHUNKS + UPGRADE + b"\r\n", SECOND),
    "WebSocket": (POST + UPGRADE.replace(b"h2c", b"websocket") + LONG, SECOND),
    "Upgrade twice": (POST + UPGRADE + b"Upgrade: a\r\n" + LONG, SECOND),
    "Upgrade without Connection": (POST + b"Upgrade: h2c\r\n" + LONG, SECOND),
    "no body": (POST.replace(b"POST", b"GET") + UPGRADE + b"\r\n", b""),
}


@pytest.mark.parametrize("step", [2**16, 100, 9])
@pytest.mark.parametrize(("sent", "body"), UPGRADED.values(), ids=UPGRADED.keys())
async def test_upgrade_changes_nothing(wire: Wire, sent: bytes, body: bytes, step: int) -> None:
    sent += sent + SECOND.replace(b"/second", b"/last")
    answer = await wire.said(*(sent[at : at + step] for at in range(0, len(sent), step)))
    assert [path for path, _, _ in wire.echo.asked] == ["/first", "/first", "/last"]
    assert [body for _, _, body in wire.echo.asked] == [body, body, b""]
    assert answer.count(b"HTTP/1.1 200 ") == 3


@pytest.mark.parametrize(("version", "more"), [(b"1.0", b""), (b"1.1", b"Connection: close\r\n")])
@pytest.mark.parametrize("split", [False, True])
async def test_upgrade_hides_no_body_of_a_connection_s_last_request(
    wire: Wire, version: bytes, more: bytes, split: bool
) -> None:
    head = POST.replace(b"1.1", version) + more + UPGRADE.replace(b"Upgrade, ", b"close, Upgrade, ")
    await wire.said(*([head, LONG] if split else [head + LONG]))
    ((path, _, body),) = wire.echo.asked
    assert (path, body) == ("/first", SECOND)


async def test_all_but_upgrade_is_kept_of_a_head_with_it(wire: Wire) -> None:
    kept = UPGRADE.replace(b"Upgrade, ", b"close, Upgrade, ")
    await wire.said(POST + kept + b"X-A: \xe9 b\r\nX-Empty:\r\nContent-Length: 0\r\n\r\n")
    ((path, headers, _),) = wire.echo.asked
    assert path == "/first"
    assert headers == {
        b"host": b"box",
        b"connection": b"close, Upgrade, HTTP2-Settings",
        b"http2-settings": b"AA",
        b"x-a": b"\xe9 b",
        b"x-empty": b"",
        b"content-length": b"0",
    }


@pytest.mark.parametrize("named", ["no host", "two hosts", "two credentials"])
async def test_upgrade_hides_no_head_that_can_be_read_in_two_ways(wire: Wire, named: str) -> None:
    answer = await wire.said(TWICE[named].replace(b"\r\n\r\n", b"\r\n" + UPGRADE + b"\r\n") + SECOND)
    assert not wire.echo.asked
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize("target", [b"box:80", b"/first", b"http://box/first"])
@pytest.mark.parametrize("more", [b"", UPGRADE])
async def test_nobody_connects_through_here(wire: Wire, target: bytes, more: bytes) -> None:
    answer = await wire.said(b"CONNECT " + target + b" HTTP/1.1\r\nHost: box\r\n" + more + LONG + SECOND)
    assert not wire.echo.asked
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 ") == 1


async def test_many_upgrades_in_one_write_are_as_many_requests(wire: Wire) -> None:
    many = 4000
    answer = await wire.said((b"GET /first HTTP/1.1\r\nHost: box\r\n" + UPGRADE + b"\r\n") * many + SECOND)
    assert answer.count(b"HTTP/1.1 200 ") == len(wire.echo.asked) == many + 1


async def test_a_caller_of_http_1_0_names_no_host(wire: Wire) -> None:
    assert (await wire.said(b"GET /first HTTP/1.0\r\n\r\n")).startswith(b"HTTP/1.1 200 ")


TRAILERS = b"Authorization: Bearer stolen\r\nX-Forwarded-For: 10.0.0.1\r\nIdempotency-Key: stolen\r\n"


@pytest.mark.parametrize("parts", [1, 3])
async def test_what_stands_behind_a_body_is_no_header(wire: Wire, parts: int) -> None:
    head = POST + b"Connection: close\r\nTransfer-Encoding: chunked\r\nTrailer: Authorization\r\n\r\n"
    pieces = [head, b"5\r\nhello\r\n", b"0\r\n" + TRAILERS + b"\r\n"]
    await wire.said(*(pieces if parts == 3 else [b"".join(pieces)]))
    ((_, headers, body),) = wire.echo.asked
    assert body == b"hello"
    assert not headers.keys() & {b"authorization", b"x-forwarded-for", b"idempotency-key"}


ENDLESS = {
    "a path": b"GET /" + b"a" * MAX_UNREAD_BYTES,
    "a name": POST + b"X" * MAX_UNREAD_BYTES,
    "a value": POST + b"X-A: " + b"a" * MAX_UNREAD_BYTES,
    "headers": POST + b"X-A: a\r\n" * (MAX_UNREAD_BYTES // 8),
    "a chunk's extension": POST + b"Transfer-Encoding: chunked\r\n\r\n5;a=" + b"a" * MAX_UNREAD_BYTES,
    "trailers": POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"X-A: a\r\n" * (MAX_UNREAD_BYTES // 8),
}


@pytest.mark.parametrize("sent", ENDLESS.values(), ids=ENDLESS.keys())
async def test_what_never_ends_is_cut_off(wire: Wire, sent: bytes) -> None:
    answer = await wire.said(sent, b"a" * MAX_UNREAD_BYTES, b"a" * MAX_UNREAD_BYTES)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400 ")
    assert not wire.echo.asked


async def test_a_long_head_and_a_long_body_pass(wire: Wire) -> None:
    body = bytes(2**19)
    head = POST + b"X-A: " + b"a" * 2**15 + b"\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body)
    assert (await wire.said(head, *(body[at : at + 2**16] for at in range(0, len(body), 2**16)))).count(b" 200 ")
    assert wire.echo.asked[0][2] == body
