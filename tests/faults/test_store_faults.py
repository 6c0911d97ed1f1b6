"""The store breaks under load, in every way that a store can: one server lives through all of it."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import until
from tests.faults.box import OUTAGE, WELL, Box
from tests.faults.load import KEYED, PUBLIC, Load
from tests.faults.processes import ready, spawn, start, stop
from tests.faults.store import Store

pytestmark = pytest.mark.slow
RECOVERED_WITHIN_S = 2.0
AT_ONCE_S = 6.0  # the limits of a refusal, and what a loaded machine adds
BREAKS_FOR_S = 3.0


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    store = Store(tmp_path_factory.mktemp("s"))
    store.start()
    yield store
    store.kill()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, zoo: Path, store: Store, photo: bytes) -> Iterator[Box]:
    state_dir = tmp_path_factory.mktemp("faults") / "var"
    limits = {"SDB_ANONYMOUS_PER_MINUTE": "1000000", "SDB_REDIS_URL": store.url}  # so that strangers need the store too
    server = start(state_dir, zoo, **limits)
    yield Box(server, photo, store.url)
    assert stop(server) == 0


@pytest.fixture
def box(running: Box) -> Iterator[Box]:
    """The server before, and after, a fault: the same process, and nothing is lost."""
    running.logged()
    yield running
    assert running.server.process.poll() is None
    assert running.ready()
    running.assert_nothing_lost()


@contextmanager
def outage(box: Box) -> Iterator[Load]:
    """Load while the body breaks the store and mends it: strangers are answered all the time, key holders soon."""
    with box.under_load() as load:
        began = time.monotonic()
        yield load
        mended = time.monotonic()
        assert load.wait(KEYED) < RECOVERED_WITHIN_S
        over = time.monotonic()
    assert set(load.seen(PUBLIC, began)) == WELL, "of strangers, all are answered"
    assert set(load.seen(KEYED, began)) <= OUTAGE
    assert load.slowest_s(PUBLIC, began, mended) < AT_ONCE_S
    assert load.slowest_s(KEYED, began, mended) < AT_ONCE_S
    assert set(load.seen(KEYED, over)) <= WELL, "and all is well again"


def assert_refused_meanwhile(load: Load, seconds: float = BREAKS_FOR_S) -> None:
    """While the store is as it is, no key holder is answered; it is not ready, and alive."""
    load.wait(KEYED, status=503)
    since = time.monotonic()
    time.sleep(seconds)
    assert set(load.seen(KEYED, since)) == {(503, "store-unavailable")}
    assert load.seen(PUBLIC, since)[200, ""]


def test_the_store_is_killed(box: Box, store: Store) -> None:
    with outage(box) as load, store.killed():
        assert_refused_meanwhile(load)
        assert not box.ready()
    assert "the key store does not answer (" in (log := box.logged())
    assert "the key store answers again" in log


def test_the_store_hangs(box: Box, store: Store) -> None:
    with outage(box) as load, store.paused():
        assert_refused_meanwhile(load, 6.0)
        assert not box.ready()
    assert "does not answer (Timeout" in box.logged()


@pytest.mark.faults
def test_the_store_is_slow(box: Box, store: Store) -> None:
    with outage(box) as load, store.slow(0.4, 0.1):
        since = time.monotonic()
        time.sleep(BREAKS_FOR_S)
        assert set(load.seen(KEYED, since)) == WELL, "slowly, and all of them"
    assert "does not answer" not in box.logged()


def test_the_store_is_read_only(box: Box, store: Store) -> None:
    with outage(box) as load:
        store.tell("REPLICAOF", "127.0.0.1", "1")
        try:
            assert_refused_meanwhile(load)
        finally:
            store.tell("REPLICAOF", "NO", "ONE")
    assert box.logged().count(" 503 ") >= load.seen(KEYED)[503, "store-unavailable"]


def test_the_store_is_full(box: Box, store: Store) -> None:
    with outage(box) as load, store.set_to("maxmemory", "1", "0"):
        load.wait(KEYED, status=503)
        since = time.monotonic()
        time.sleep(BREAKS_FOR_S)
        seen = load.seen(KEYED, since)
        assert set(seen) <= OUTAGE, (
            "a full Valkey takes a write once in some hundred: that is charged, as the books say"
        )
        assert seen[503, "store-unavailable"] > 0.9 * seen.total()
        refused = box.ask(box.key["api_key"])
        assert (refused.status_code, refused.json()["code"]) == (503, "store-unavailable")
        assert int(refused.headers["retry-after"]) > 0


def test_the_password_of_the_store_changes(box: Box, store: Store) -> None:
    with outage(box) as load:
        store.tell("CONFIG", "SET", "requirepass", "another")
        store.password = "another"
        try:
            store.tell("CLIENT", "KILL", "TYPE", "normal")
            assert_refused_meanwhile(load)
        finally:
            store.tell("CONFIG", "SET", "requirepass", "")
            store.password = ""
    log = box.logged()
    assert "(AuthenticationError)" in log
    assert "another" not in log


def test_connections_to_the_store_are_cut_again_and_again(box: Box, store: Store) -> None:
    with outage(box) as load:
        since = time.monotonic()
        for _ in range(60):
            store.tell("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            time.sleep(0.05)
        seen = load.seen(KEYED, since)
    assert seen[200, ""] > 0.9 * sum(seen.values()), "what is lost is asked for again"


def test_the_store_forgets_the_scripts(box: Box, store: Store) -> None:
    with outage(box) as load:
        since = time.monotonic()
        for _ in range(20):
            store.tell("SCRIPT", "FLUSH")
            time.sleep(0.1)
        assert set(load.seen(KEYED, since)) == WELL, "they are sent again"


@pytest.mark.faults
def test_the_store_takes_no_more_connections(box: Box, store: Store) -> None:
    with outage(box) as load, store.operator() as operator:
        operator.config_set("maxclients", "1")
        operator.client_kill_filter(_type="normal", skipme=True)
        assert_refused_meanwhile(load)
        operator.config_set("maxclients", "10000")


@pytest.mark.faults
def test_the_store_restarts_with_what_it_had(box: Box, store: Store) -> None:
    with outage(box) as load:
        store.kill()
        store.start()
        assert load.wait(KEYED) < RECOVERED_WITHIN_S


def test_the_store_restarts_empty(tmp_path: Path, zoo: Path, photo: bytes) -> None:
    """Nobody is let in by what the server remembers, and no new admin is made: that is for its operator to decide."""
    store = Store(tmp_path / "s")
    store.start()
    server = start(tmp_path / "var", zoo, SDB_REDIS_URL=store.url)
    try:
        box = Box(server, photo, store.url)
        admin = box.server.admin
        assert box.ask(box.key["api_key"]).status_code == 200
        store.kill()
        store.empty()
        store.start()
        until(lambda: box.ask(box.key["api_key"]).status_code == 401)
        assert box.ask().status_code == 200
        assert not box.ready()
        assert "the key store is empty" in box.logged()
        assert box.server.admin == admin, "its key is not replaced"
    finally:
        stop(server)
        store.kill()


@pytest.mark.faults
def test_the_store_is_another_one(tmp_path: Path, zoo: Path, photo: bytes) -> None:
    """Somebody else's keys are none of ours: not ready, until the former store is back."""
    store = Store(tmp_path / "s")
    store.start()
    server = start(tmp_path / "var", zoo, SDB_REDIS_URL=store.url)
    kept, former = store.folder / "appendonlydir", store.folder / "former"
    try:
        box = Box(server, photo, store.url)
        assert box.ready()
        assert box.ask(box.key["api_key"]).status_code == 200
        store.kill()
        kept.rename(former)
        store.start()
        store.tell("ZADD", "sdb:keys", "1", "key_of_somebody_else")
        until(lambda: box.ask(box.key["api_key"]).status_code == 401)
        assert box.ask().status_code == 200
        assert not box.ready()
        assert "the key store is another one than before" in box.logged()
        store.kill()
        store.empty()
        former.rename(kept)
        store.start()
        until(box.ready)
        assert box.ask(box.key["api_key"]).status_code == 200
        box.assert_nothing_lost()
    finally:
        stop(server)
        store.kill()


def test_the_store_is_away_when_the_server_starts(tmp_path: Path, zoo: Path, photo: bytes) -> None:
    """A new one, even: when it comes, its first admin is made without a restart."""
    store = Store(tmp_path / "s")
    server = ready(spawn(tmp_path / "var", zoo, {"SDB_REDIS_URL": store.url}), status=503)
    try:
        assert Box.strangers_are_answered(server, photo)
        assert not (tmp_path / "var" / "admin.key").exists()
        store.start()
        took = until((tmp_path / "var" / "admin.key").exists)
        assert took < RECOVERED_WITHIN_S
        box = Box(server, photo, store.url)
        assert box.ready()
        assert box.ask(box.key["api_key"]).status_code == 200
    finally:
        stop(server)
        store.kill()


def test_the_embedded_store_is_killed(tmp_path: Path, zoo: Path, photo: bytes) -> None:
    server = start(tmp_path / "var", zoo, SDB_ANONYMOUS_PER_MINUTE="1000000")
    try:
        box = Box(server, photo)
        box.logged()
        with outage(box) as load:
            for _ in range(3):
                children_of(server.process.pid, signal.SIGKILL)
                assert load.wait(KEYED) < RECOVERED_WITHIN_S
        box.assert_nothing_lost()
        assert box.logged().count("the store has ended (-9) and is started again") == 3
    finally:
        assert stop(server) == 0


def children_of(pid: int, number: signal.Signals) -> None:
    """Send the children of a process a signal."""
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            os.kill(int(child), number)
