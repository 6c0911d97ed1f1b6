"""Server processes are stopped, killed, hung and replaced under load: no request fails that need not."""

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import Server, until
from tests.faults.box import WELL, Box, in_background
from tests.faults.load import KEYED, PUBLIC, Load
from tests.faults.processes import ready, spawn, start, stop
from tests.faults.sockets import connected, head
from tests.faults.store import Store

pytestmark = pytest.mark.slow
RECOVERED_WITHIN_S = 2.0
WORKERS = 2
HANGS_FOR_S = 10.0
FULL_AFTER_S = 8.0  # a pipe holds 64 KiB, some 700 lines
BROKEN = {(0, "RemoteProtocolError"), (0, "ReadError"), (0, "ConnectError"), (0, "WriteError")}


@pytest.fixture
def server(tmp_path: Path, zoo: Path) -> Iterator[Server]:
    running = start(tmp_path / "var", zoo, SDB_DRAIN_DELAY_S="2")
    yield running
    stop(running)


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory, zoo: Path, photo: bytes) -> Iterator[Box]:
    state_dir = tmp_path_factory.mktemp("processes") / "var"
    running = start(state_dir, zoo, SDB_WORKERS=str(WORKERS))
    yield Box(running, photo)
    assert stop(running) == 0


def processes(server: Server) -> list[int]:
    """Its workers: children of the one that has imported the server for them."""
    return [worker for child in children(server.process.pid) for worker in children(child)]


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def status(url: str) -> int:
    try:
        return httpx.get(f"{url}/readyz", timeout=10).status_code
    except httpx.TransportError:
        return 0


def unreadable(load: Load) -> set[tuple[int, str]]:
    """All that came but answers."""
    return (set(load.seen(PUBLIC)) | set(load.seen(KEYED))) - WELL


def test_a_server_is_terminated(server: Server, photo: bytes) -> None:
    """It says first that it is not ready, answers on, and every answer is the last of its connection."""
    box = Box(server, photo)
    with box.under_load() as load, httpx.Client(base_url=server.url, timeout=30) as kept:
        kept.get("/livez")
        told = time.monotonic()
        server.process.terminate()
        until(lambda: status(server.url) == 503, what="it is not ready")
        last = kept.post("/v1/models/tiny/predict", content=photo)
        assert last.status_code == 200
        assert last.headers["connection"] == "close"
        load.wait(KEYED)
        load.stop()
        assert time.monotonic() - told < 10
    assert unreadable(load) <= {(0, "ConnectError")}, "whoever comes after the end"
    assert server.process.wait(40) == 0


def test_the_terminal_of_a_server_closes(server: Server, photo: bytes) -> None:
    """It ends as when it is terminated, also if both happen, and more than once: it still waits to be noticed."""
    box = Box(server, photo)
    with box.under_load() as load:
        server.process.send_signal(signal.SIGHUP)
        until(lambda: status(server.url) == 503, what="it is not ready")
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGTERM):
            server.process.send_signal(number)
        load.wait(KEYED, 10)
        load.stop()
    assert unreadable(load) <= {(0, "ConnectError")}, "whoever comes after the end"
    assert server.process.wait(40) == 0


@pytest.mark.faults
def test_nobody_reads_the_log(tmp_path: Path, zoo: Path, photo: bytes) -> None:
    """A pipe that is full holds up nobody, and how much was lost is said to whoever reads on."""
    logged, there = os.pipe()
    quiet = ready(spawn(tmp_path / "var", zoo, {}, stderr=there))
    os.close(there)
    box = Box(quiet, photo)
    with box.under_load(pause_s=0.0) as load:
        time.sleep(FULL_AFTER_S)
        since = time.monotonic()
        load.wait(PUBLIC, 50)
        load.wait(KEYED, 50)
        assert box.ready()
        assert load.slowest_s(KEYED, since) < RECOVERED_WITHIN_S
    assert unreadable(load) == set()
    assert len(os.read(logged, 2**20)) > 2**15, "it was full"
    box.ask()
    assert b"lines were lost: nobody read this log" in os.read(logged, 2**20)
    box.assert_nothing_lost()
    assert stop(quiet) == 0
    os.close(logged)


@pytest.mark.faults
def test_a_terminated_server_has_a_caller_that_never_ends(
    server: Server, photo: bytes, tmp_path: Path, zoo: Path
) -> None:
    del server
    bounded = start(tmp_path / "bounded", zoo, SDB_DRAIN_DELAY_S="0", SDB_DRAIN_TIMEOUT_S="2")
    with connected(bounded.url) as connection:
        connection.sendall(head(len(photo)) + photo[:10])
        time.sleep(0.5)
        began = time.monotonic()
        assert stop(bounded) == 0
        assert time.monotonic() - began < 12


@pytest.mark.faults
def test_a_server_is_killed(server: Server, photo: bytes, zoo: Path) -> None:
    box = Box(server, photo)
    with box.under_load() as load:
        server.process.kill()
        server.process.wait()
        until(lambda: (0, "ConnectError") in load.seen(KEYED), what="nobody listens")
        box.server = start(server.state_dir, zoo, SDB_PORT=server.url.rpartition(":")[2])
        load.wait(KEYED)
    try:
        assert unreadable(load) <= BROKEN
        box.assert_nothing_lost()
    finally:
        assert stop(box.server) == 0


def test_a_worker_is_killed(workers: Box) -> None:
    with workers.under_load() as load:
        os.kill(processes(workers.server)[0], signal.SIGKILL)
        time.sleep(0.2)
        since = time.monotonic()
        assert load.wait(KEYED) < RECOVERED_WITHIN_S
        until(lambda: len(processes(workers.server)) == WORKERS)
        load.wait(KEYED, 20)
    assert unreadable(load) <= BROKEN, "its open connections"
    assert set(load.seen(KEYED, since)) == WELL
    assert "ended (-9), another one starts" in workers.logged()
    workers.assert_nothing_lost()


@pytest.mark.faults
def test_a_worker_hangs(workers: Box) -> None:
    """Those whose connection it holds wait until it is killed; the other goes on."""
    before = processes(workers.server)
    with workers.under_load() as load:
        os.kill(before[0], signal.SIGSTOP)
        took = until(lambda: before[0] not in processes(workers.server), HANGS_FOR_S + 10)
        assert took > HANGS_FOR_S / 2, "a busy moment is none"
        until(lambda: len(processes(workers.server)) == WORKERS)
        load.wait(KEYED, 20)
        load.wait(PUBLIC, 20)
    assert unreadable(load) <= BROKEN
    assert "hangs and is killed" in workers.logged()
    until(lambda: workers.counts("sdb_workers_replaced_total", reason="hung") == 1)
    workers.assert_nothing_lost()


def test_all_workers_are_replaced(workers: Box) -> None:
    """A rolling restart: no request fails."""
    before = processes(workers.server)
    with workers.under_load() as load:
        since = time.monotonic()
        workers.server.process.send_signal(signal.SIGHUP)
        until(lambda: not set(before) & set(processes(workers.server)), 120, "all are new")
        load.wait(KEYED, 20)
    assert set(load.seen(KEYED, since)) == set(load.seen(PUBLIC, since)) == WELL
    assert workers.logged().count("takes the place of") == WORKERS
    assert workers.counts("sdb_workers_replaced_total", reason="renewed") >= WORKERS
    workers.assert_nothing_lost()


@pytest.mark.faults
def test_workers_are_to_be_replaced_and_cannot_start(workers: Box, zoo: Path) -> None:
    """The old ones stay."""
    before, spoiled = processes(workers.server), zoo / "tiny" / "bundle.json"
    good = spoiled.read_bytes()
    spoiled.write_bytes(b"{}")
    try:
        with workers.under_load() as load:
            workers.server.process.send_signal(signal.SIGHUP)
            until(lambda: "the old ones stay" in workers._log.read_text(), 60)
            load.wait(KEYED)
    finally:
        spoiled.write_bytes(good)
    assert unreadable(load) == set()
    assert processes(workers.server) == before


def test_a_server_takes_the_socket_over_from_another(tmp_path: Path, zoo: Path, photo: bytes) -> None:
    """As systemd hands it over: the one starts, then the other stops, and no request fails."""
    store = Store(tmp_path / "s")
    store.start()
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        listener.set_inheritable(True)
        port, fd = listener.getsockname()[1], listener.fileno()
        settings = {"SDB_REDIS_URL": store.url, "SDB_FD": str(fd), "SDB_PORT": str(port)}
        settings["SDB_ANONYMOUS_PER_MINUTE"] = "0"  # no limit
        first = ready(spawn(tmp_path / "var", zoo, settings, pass_fds=[fd]))
        box = Box(first, photo, store.url)
        with box.under_load() as load:
            second = spawn(tmp_path / "var", zoo, settings, pass_fds=[fd])
            until(lambda: box._log.read_text().count("Started server process") == 2, 60)
            in_background(first.process.terminate)
            assert first.process.wait(60) == 0
            load.wait(KEYED, 20)
            load.wait(PUBLIC, 20)
        assert unreadable(load) == set()
        box.assert_nothing_lost()
        assert stop(second) == 0
    store.kill()
