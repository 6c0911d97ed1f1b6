"""Callers that break off, hang, crawl or come in thousands: they harm nobody else, and lose nothing that is theirs."""

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from app.connections import Patience
from tests.conftest import Server, until
from tests.faults.box import WELL, Box, in_background
from tests.faults.load import KEYED, PUBLIC
from tests.faults.processes import start, stop
from tests.faults.sockets import answer, connected, drip, head

pytestmark = pytest.mark.slow
PATIENCE = Patience()
SLACK_S = 8.0  # it looks once a second, on a loaded machine
IDLE = 1000
OF_THE_STORE = 60  # connections that the server keeps


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, zoo: Path, photo: bytes) -> Iterator[Box]:
    server = start(tmp_path_factory.mktemp("callers") / "var", zoo)
    yield Box(server, photo)
    assert stop(server) == 0


@pytest.fixture
def box(running: Box) -> Iterator[Box]:
    """The server before, and after, a fault: no failure of its own, no connection left, nothing lost."""
    running.logged()
    before = descriptors(running.server)
    yield running
    assert running.server.process.poll() is None
    until(lambda: descriptors(running.server) <= before + OF_THE_STORE, what="connections are gone")
    assert "Traceback" not in running.logged()
    running.assert_nothing_lost()


def descriptors(server: Server) -> int:
    return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))


def remaining(box: Box, key: dict[str, str]) -> int:
    headers = {"Authorization": f"Bearer {key['api_key']}"}
    budget = httpx.get(f"{box.url}/v1/keys/self", headers=headers, timeout=30).json()["budget"]
    return int(budget["remaining"])


def test_a_caller_hangs_up_before_its_answer(box: Box, photo: bytes) -> None:
    key = box.issue(100)
    with box.under_load() as load:
        for _ in range(20):
            with connected(box.url) as connection:
                connection.sendall(head(len(photo), key["api_key"]) + photo)
        until(lambda: remaining(box, key) == 80, what="each of them is charged, or given back, once and for all")
    assert set(load.seen(KEYED)) == set(load.seen(PUBLIC)) == WELL


def test_a_caller_hangs_up_within_its_body(box: Box, photo: bytes) -> None:
    key = box.issue(100)
    with box.under_load() as load:
        for _ in range(20):
            with connected(box.url) as connection:
                connection.sendall(head(len(photo), key["api_key"]) + photo[:100])
        time.sleep(0.5)
        assert remaining(box, key) == 100
    assert set(load.seen(KEYED)) == WELL


@pytest.mark.faults
def test_a_caller_resets_its_connection(box: Box, photo: bytes) -> None:
    with box.under_load() as load:
        for _ in range(20):
            with connected(box.url) as connection:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
                connection.sendall(head(len(photo)) + photo)
    assert set(load.seen(KEYED)) == WELL


@pytest.mark.faults
def test_a_caller_sends_its_headers_a_byte_a_second(box: Box, photo: bytes) -> None:
    with box.under_load() as load, connected(box.url) as connection:
        status, took_s = drip(connection, head(len(photo), more="X-Long: " + 100 * "a"), 1.0)
    assert status == 408
    assert took_s < PATIENCE.headers_s + SLACK_S
    assert set(load.seen(KEYED)) == WELL


@pytest.mark.faults
def test_a_caller_sends_its_body_a_byte_a_second(box: Box, photo: bytes) -> None:
    key = box.issue(100)
    with box.under_load() as load, connected(box.url) as connection:
        connection.sendall(head(len(photo), key["api_key"]))
        status, took_s = drip(connection, photo, 1.0)
    assert status == 408
    assert took_s < PATIENCE.body_s + SLACK_S
    assert remaining(box, key) == 100
    assert set(load.seen(KEYED)) == WELL


@pytest.mark.faults
def test_a_caller_sends_nothing_but_line_ends(box: Box) -> None:
    """They are no request, and used to keep a connection open for ever."""
    with connected(box.url) as connection:
        _, took_s = drip(connection, 100 * b"\r\n", 1.0)
    assert took_s < PATIENCE.headers_s + SLACK_S


@pytest.mark.faults
def test_a_caller_does_not_take_its_answer(box: Box) -> None:
    """A thousand answers are asked for in a row, and none is read."""
    with connected(box.url) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        page = b"GET /openapi.json HTTP/1.1\r\nHost: box\r\n\r\n"
        asking = in_background(lambda: connection.sendall(1000 * page))
        before = descriptors(box.server)
        until(lambda: descriptors(box.server) < before, PATIENCE.answer_s + 3 * SLACK_S, "it is cut off")
        asking.join(5)


@pytest.mark.faults
def test_a_thousand_callers_connect_and_say_nothing(box: Box) -> None:
    with ExitStack() as stack, box.under_load() as load:
        for _ in range(IDLE):
            stack.enter_context(connected(box.url))
        until(lambda: descriptors(box.server) > IDLE / 2, what="most of them are accepted")
        since = time.monotonic()
        load.wait(PUBLIC, 20)
        load.wait(KEYED, 20)
        until(lambda: descriptors(box.server) < IDLE / 5, PATIENCE.headers_s + 2 * SLACK_S, "they are let go")
    assert set(load.seen(KEYED, since)) == set(load.seen(PUBLIC, since)) == WELL


@pytest.mark.faults
def test_more_callers_come_than_there_is_room_for(tmp_path: Path, zoo: Path, photo: bytes) -> None:
    """Who is idle longest gives way: whoever has something to say finds room."""
    server = start(tmp_path / "var", zoo, SDB_MAX_CONNECTIONS="50")
    try:
        box = Box(server, photo)
        with box.under_load() as load, ExitStack() as stack:
            since = time.monotonic()
            for _ in range(300):
                stack.enter_context(connected(box.url))
            load.wait(PUBLIC, 10)
            load.wait(KEYED, 10)
            assert descriptors(server) < 120
        seen = load.seen(KEYED, since) + load.seen(PUBLIC, since)
        assert seen[200, ""] > 0.8 * sum(seen.values()), "a connection between two requests is idle, too"
        assert not {status for status, _ in seen} - {200, 503, 0}
    finally:
        assert stop(server) == 0


def test_a_caller_closes_its_half_of_the_connection(box: Box, photo: bytes) -> None:
    with connected(box.url) as connection:
        connection.sendall(head(len(photo)) + photo)
        connection.shutdown(socket.SHUT_WR)
        status, received = answer(connection)
    assert status == 200
    assert b"connection: close" in received.lower()


def test_a_caller_speaks_no_http(box: Box) -> None:
    for garbage in (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
        b"hello\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
    ):
        with connected(box.url, 30) as connection:
            connection.sendall(garbage)
            status, received = answer(connection)
        assert status == 400
        assert b'"code":"invalid-request"' in received
