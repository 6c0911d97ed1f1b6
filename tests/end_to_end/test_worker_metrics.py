"""Several processes are one server to Prometheus: whichever answers tells the sum, and nothing counted is lost."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.app.scraping import Scrape
from tests.conftest import Server, serving, until
from tests.end_to_end.test_workers import workers

PREDICT = "/v1/models/tiny/predict"


@pytest.fixture
def server(tmp_path: Path, zoo: Path) -> Iterator[Server]:
    with serving(tmp_path / "var", zoo, SDB_WORKERS="2", SDB_LOG_REQUESTS="false") as running:
        yield running


def ask(server: Server, photo: bytes, times: int) -> None:
    """On connections of their own, so that each of the workers gets some."""
    for _ in range(times):
        assert httpx.post(f"{server.url}{PREDICT}", content=photo, timeout=60).status_code == 200


def looks(server: Server) -> list[Scrape]:
    """What the workers say, each of them at least once, as luck will have it."""
    return [Scrape.of(httpx.get(f"{server.url}/metrics").text) for _ in range(8)]


@pytest.mark.slow
def test_any_worker_tells_what_all_have_answered_also_those_that_were_killed(server: Server, photo: bytes) -> None:
    ask(server, photo, 30)
    answered = {"model": "tiny", "tier": "public"}
    assert {look.value("sdb_images_total", **answered) for look in looks(server)} == {30}
    killed, other = workers(server)
    os.kill(killed, signal.SIGKILL)
    until(lambda: len(set(workers(server)) - {killed, other}) == 1)
    until(lambda: httpx.get(f"{server.url}/readyz").status_code == 200)
    assert {look.value("sdb_images_total", **answered) for look in looks(server)} == {30}
    ask(server, photo, 10)
    look = looks(server)[-1]
    assert look.value("sdb_images_total", **answered) == 40
    assert look.value("sdb_batch_images_sum", model="tiny") == 40
    assert look.total("sdb_worker_starts_total") == 3
    assert look.value("sdb_workers_replaced_total", reason="ended") == look.total("sdb_workers_replaced_total") == 1
    assert look.value("sdb_model_info", **next(dict(labels) for name, labels in look if name == "sdb_model_info")) == 1
    assert look.value("sdb_queue_limit_images", model="tiny") == 2 * 1024
