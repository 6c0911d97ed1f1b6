"""Laws of `sdb serve --workers`: its processes are one server, which outlives each of them, and none of them it."""

import os
import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.conftest import Server, alive, bearer, free_port, start_server, until

WORKERS = 2
PREDICT = "/v1/models/tiny/predict"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, zoo: Path) -> Iterator[Server]:
    running = start_server(tmp_path_factory.mktemp("workers") / "var", zoo, free_port(), SDB_WORKERS=str(WORKERS))
    yield running
    running.process.terminate()
    assert running.process.wait(40) == 0


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")  # of each thread
    return [int(child) for task in tasks for child in task.read_text().split()]


def workers(server: Server) -> list[int]:
    """The processes that answer: children of the one that has imported the server for them."""
    return [worker for child in children(server.process.pid) for worker in children(child)]


def issue(server: Server, limit: int | None) -> dict[str, str]:
    grant = {"name": "partner", "scopes": ["distill"], "budget": {"limit": limit}}
    key = httpx.post(f"{server.url}/admin/v1/keys", json=grant, headers=server.admin).json()
    return bearer(key["api_key"])


def processor_time(pid: int) -> int:
    return sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))


def test_a_budget_is_exact_over_all_workers(server: Server, photo: bytes) -> None:
    key, before = issue(server, 50), {pid: processor_time(pid) for pid in workers(server)}
    assert len(before) == WORKERS

    def ask(_: int) -> int:
        """On a connection of its own, so that it may be any worker's."""
        return client.post(PREDICT, content=photo, headers=key | {"Connection": "close"}).status_code

    with ThreadPoolExecutor(16) as pool, httpx.Client(base_url=server.url, timeout=60) as client:
        assert Counter(pool.map(ask, range(200))) == {200: 50, 429: 150}
    assert all(processor_time(pid) > spent for pid, spent in before.items()), "each of them has worked"
    budget = httpx.get(f"{server.url}/v1/keys/self", headers=key).json()["budget"]
    assert (budget["limit"], budget["remaining"]) == (50, 0)


def test_a_killed_worker_takes_its_connections_and_nothing_else(server: Server, photo: bytes) -> None:
    key, (killed, other) = issue(server, None), workers(server)

    def ask() -> int:
        return httpx.post(f"{server.url}{PREDICT}", content=photo, headers=key, timeout=60).status_code

    os.kill(killed, signal.SIGKILL)
    while len(workers(server)) < WORKERS or killed in workers(server):
        assert ask() == 200
    assert other in workers(server), "it was left in peace"
    assert {ask() for _ in range(8)} == {200}


@pytest.mark.slow
def test_no_worker_outlives_a_killed_parent(tmp_path: Path, zoo: Path) -> None:
    """It would hold the port, and write to a store that has another owner."""
    mortal = start_server(tmp_path / "var", zoo, free_port(), SDB_WORKERS=str(WORKERS))
    left = workers(mortal)
    mortal.process.kill()
    mortal.process.wait()
    until(lambda: not any(map(alive, left)))
    again = start_server(tmp_path / "var", zoo, int(mortal.url.rpartition(":")[2]))
    try:
        assert httpx.get(f"{again.url}/admin/v1/keys", headers=again.admin).status_code == 200
    finally:
        again.process.terminate()
        assert again.process.wait(40) == 0


@pytest.mark.slow
def test_workers_that_cannot_start_say_why_in_a_line_and_end_the_server(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="no model bundle in") as refused:
        start_server(tmp_path / "var", tmp_path, free_port(), SDB_WORKERS=str(WORKERS))
    assert "Traceback" not in str(refused.value)
    assert "sdb: a worker could not start" in str(refused.value)
