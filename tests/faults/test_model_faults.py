"""The model breaks under load: each batch fails by itself, its charges come back, and the next is answered."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import until
from tests.faults.box import WELL, Box
from tests.faults.faulty import Order, Orders
from tests.faults.load import KEYED, PUBLIC, Load
from tests.faults.processes import ready, spawn, stop

pytestmark = pytest.mark.slow
LIMIT_S = 2.0
BREAKS_FOR_S = 2.0
RECOVERED_WITHIN_S = 2.0
FAILED, BUSY = (500, "internal-error"), (503, "overloaded")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def running(folder: Path, zoo: Path, photo: bytes) -> Iterator[Box]:
    settings = {"SDB_MODEL_TIMEOUT_S": str(LIMIT_S), "SDB_CORES": "2"}
    command = [sys.executable, "-m", "tests.faults.faulty", str(folder / "order")]
    server = ready(spawn(folder / "var", zoo, settings, command))
    yield Box(server, photo)
    assert stop(server) == 0


@pytest.fixture
def box(running: Box) -> Iterator[Box]:
    running.logged()
    yield running
    assert running.server.process.poll() is None
    until(running.ready, within_s=3 * LIMIT_S)
    running.assert_nothing_lost()


@contextmanager
def ordered(box: Box, folder: Path, order: Order) -> Iterator[Load]:
    """Load while the model does as it is told; then all is well again."""
    orders = Orders(folder / "order")
    with box.under_load() as load:
        orders.give(order)
        try:
            yield load
        finally:
            orders.withdraw()
        for kind in (PUBLIC, KEYED):
            assert load.wait(kind, within_s=30) < RECOVERED_WITHIN_S + LIMIT_S
        over = time.monotonic()
        time.sleep(0.5)
    assert set(load.seen(KEYED, over)) <= WELL


def test_the_model_raises(box: Box, folder: Path) -> None:
    with ordered(box, folder, Order.RAISE) as load:
        load.wait(KEYED, status=500)
        since = time.monotonic()
        time.sleep(BREAKS_FOR_S)
        assert set(load.seen(KEYED, since)) == set(load.seen(PUBLIC, since)) == {FAILED}
        refused = box.ask(box.key["api_key"])
        assert "broken" not in refused.text, "the log alone says how"
    assert "model tiny failed on a batch of" in (log := box.logged())
    assert "RuntimeError: the model is broken" in log


def test_the_model_says_what_is_not_a_number(box: Box, folder: Path) -> None:
    with ordered(box, folder, Order.NAN) as load:
        load.wait(KEYED, status=500)
        assert set(load.seen(KEYED)) <= WELL | {FAILED}
        refused = box.ask(box.key["api_key"])
        assert refused.status_code in {200, 500}, "a row of somebody else may be the bad one"
        assert "nan" not in refused.text.lower()
    assert "answers are finite; none of them leaves" in box.logged()


def test_the_model_finds_no_memory(box: Box, folder: Path) -> None:
    with ordered(box, folder, Order.FULL) as load:
        load.wait(KEYED, status=503)
        since = time.monotonic()
        time.sleep(BREAKS_FOR_S)
        assert set(load.seen(KEYED, since)) == set(load.seen(PUBLIC, since)) == {BUSY}
        assert int(box.ask().headers["retry-after"]) > 0
    assert "no memory for a batch of" in box.logged()


def test_a_batch_hangs(box: Box, folder: Path) -> None:
    with ordered(box, folder, Order.HANG) as load:
        load.wait(PUBLIC, status=200)
        until(lambda: any(one.status == 503 for one in load.outcomes), within_s=3 * LIMIT_S)
    refused = [one for one in load.outcomes if one.status != 200]
    assert {(one.status, one.code) for one in refused} == {BUSY}, "those of that batch and no other"
    assert len(refused) <= 4
    assert all(one.took_s < 2 * LIMIT_S + 1 for one in refused)
    assert "hangs, its batch of" in (log := box.logged())
    assert "another one starts" in log
    assert box.counts("sdb_model_threads_lost_total", model="tiny", reason="hangs") >= 1


@pytest.mark.faults
def test_every_batch_hangs(box: Box, folder: Path) -> None:
    with ordered(box, folder, Order.HANG_ALL) as load:
        load.wait(PUBLIC, count=2, status=503)
        load.wait(KEYED, count=2, status=503)
    assert set(load.seen(KEYED)) <= WELL | {BUSY}
    assert box.logged().count("another one starts") >= 2


def test_the_thread_of_a_worker_dies(box: Box, folder: Path) -> None:
    with ordered(box, folder, Order.DIE) as load:
        until(lambda: " died, its batch" in box._log.read_text(), within_s=10 * LIMIT_S)
    assert set(load.seen(KEYED)) | set(load.seen(PUBLIC)) <= WELL | {FAILED, BUSY}, "what it was at fails, no more"
    assert "another one starts" in box.logged()
    assert box.counts("sdb_model_threads_lost_total", model="tiny", reason="died") >= 1


@pytest.mark.faults
def test_the_model_is_slow(box: Box, folder: Path) -> None:
    with ordered(box, folder, Order.SLOW) as load:
        time.sleep(BREAKS_FOR_S)
    assert set(load.seen(KEYED)) == WELL
    assert "hangs" not in box.logged()
