"""Laws of the server as its users meet it: a real process, real HTTP, real kills."""

import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from tests.conftest import Server, bearer, free_port, start_server

PREDICT = "/v1/models/tiny/predict"


@pytest.fixture
def mortal(tmp_path: Path, zoo: Path) -> Iterator[Server]:
    """A server that a test may kill."""
    running = start_server(tmp_path / "var", zoo, free_port())
    yield running
    stop(running, signal.SIGTERM)


@pytest.fixture(scope="module", autouse=True)
def refused(server: Server, zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Server]]]:
    """Starts that fail, each by its reason. They begin before all tests: one waits ten seconds for a store."""
    empty = tmp_path_factory.mktemp("empty")
    places = {"another process uses the store": (server.state_dir, zoo), "no model bundle in": (empty / "var", empty)}
    with ThreadPoolExecutor() as pool:
        yield {reason: pool.submit(start_server, *place, free_port()) for reason, place in places.items()}


def stop(server: Server, how: signal.Signals) -> int:
    if server.process.poll() is None:
        server.process.send_signal(how)
    return server.process.wait(timeout=40)


def issue(server: Server, limit: int) -> dict[str, str]:
    grant = {"name": "partner", "scopes": ["predict", "distill"], "budget": {"limit": limit}}
    key: dict[str, str] = httpx.post(f"{server.url}/admin/v1/keys", json=grant, headers=server.admin).json()
    return key


def token(server: Server, key: dict[str, str]) -> str:
    form = {"grant_type": "client_credentials"}
    answer = httpx.post(f"{server.url}/oauth2/token", data=form, auth=(key["id"], key["api_key"]))
    return str(answer.json()["access_token"])


def predict(server: Server, photo: bytes, credential: str) -> httpx.Response:
    return httpx.post(f"{server.url}{PREDICT}", content=photo, headers=bearer(credential), timeout=60)


def remaining(server: Server, credential: str) -> int:
    own = httpx.get(f"{server.url}/v1/keys/self", headers=bearer(credential)).json()
    return int(own["budget"]["remaining"])


def test_two_hundred_parallel_requests_on_a_budget_of_fifty_serve_exactly_fifty(server: Server, photo: bytes) -> None:
    access = token(server, issue(server, 50))
    client = httpx.Client(base_url=server.url, headers=bearer(access), timeout=60)
    with client, ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda _: client.post(PREDICT, content=photo), range(200)))
    assert Counter(answer.status_code for answer in answers) == {200: 50, 429: 150}
    refused = [answer for answer in answers if answer.status_code == 429]
    assert {answer.json()["code"] for answer in refused} == {"quota-exceeded"}
    assert {answer.headers["x-should-retry"] for answer in refused} == {"false"}
    assert remaining(server, access) == 0


def test_keys_and_budgets_survive_a_killed_server(mortal: Server, photo: bytes, zoo: Path) -> None:
    key = issue(mortal, 50)
    for _ in range(7):
        assert predict(mortal, photo, key["api_key"]).status_code == 200
    access = token(mortal, key)
    stop(mortal, signal.SIGKILL)
    again = start_server(mortal.state_dir, zoo, free_port())
    try:
        assert remaining(again, key["api_key"]) == 43
        assert predict(again, photo, access).json()["budget"] == {"remaining": 42, "limit": 50}
        assert httpx.get(f"{again.url}/admin/v1/keys", headers=again.admin).json()["keys"][0]["id"] == key["id"]
    finally:
        assert stop(again, signal.SIGTERM) == 0


def test_a_terminated_server_answers_what_it_has_begun(mortal: Server, photo: bytes) -> None:
    key = issue(mortal, 8 * 100)
    url, headers = f"{mortal.url}{PREDICT}?views=10", bearer(key["api_key"])

    def ask(_: int) -> int:
        return httpx.post(url, files=[("image", photo)] * 10, headers=headers, timeout=60).status_code

    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(ask, range(8))
        while remaining(mortal, key["api_key"]):
            time.sleep(0.01)
        mortal.process.send_signal(signal.SIGTERM)
        assert list(answers) == [200] * 8
    assert mortal.process.wait(30) == 0


def test_callers_that_hang_up_leave_nothing_behind(server: Server, photo: bytes) -> None:
    """Their charge is given back or was for an answer on its way; the server goes on at once."""
    key = issue(server, 1000)
    with httpx.Client(base_url=server.url, headers=bearer(key["api_key"]), timeout=0.005) as client:
        for _ in range(30):
            with pytest.raises(httpx.TimeoutException):
                client.post(PREDICT, files=[("image", photo)] * 20)
    answer = predict(server, photo, key["api_key"])
    assert answer.status_code == 200
    assert answer.elapsed.total_seconds() < 10
    assert (1000 - answer.json()["budget"]["remaining"] - 1) % 20 == 0, "each request was charged whole or not at all"


def test_a_server_that_cannot_start_says_why_in_one_line(server: Server, refused: dict[str, Future[Server]]) -> None:
    for reason, start in refused.items():
        with pytest.raises(AssertionError, match=reason) as told:
            start.result()
        assert "Traceback" not in str(told.value)
    assert httpx.get(f"{server.url}/readyz").status_code == 200


def listening(pid: str) -> list[str]:
    """The TCP addresses that a process listens on, hexadecimal as the kernel writes them."""
    sockets = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # a connection may end meanwhile
            sockets.add(str(link.readlink()))
    tables = Path(f"/proc/{pid}/net").glob("tcp*")
    table = [line.split() for file in tables for line in file.read_text().splitlines()]
    return [row[1] for row in table if row[3] == "0A" and f"socket:[{row[9]}]" in sockets]


def test_no_tcp_port_but_the_servers_own_is_opened(server: Server) -> None:
    tasks = Path(f"/proc/{server.process.pid}/task").glob("*/children")  # of each thread
    children = [pid for task in tasks for pid in task.read_text().split()]
    assert children, "the embedded store is a child process"
    (own,) = listening(str(server.process.pid))
    assert own == f"0100007F:{int(server.url.rpartition(':')[2]):04X}"
    assert [address for pid in children for address in listening(pid)] == []


def test_secrets_in_the_state_folder_are_private_and_never_logged(server: Server, photo: bytes) -> None:
    key = issue(server, 3)
    access = token(server, key)
    predict(server, photo, access)
    httpx.post(f"{server.url}/oauth2/token", data={"client_id": key["id"], "client_secret": key["api_key"]})
    log = server.state_dir.with_suffix(".log").read_text()
    admin_key = (server.state_dir / "admin.key").read_text().strip()
    assert not any(secret in log for secret in (key["api_key"], access, admin_key))
    for file in server.state_dir.rglob("*"):
        if file.is_file() and "store" not in file.parts:
            assert file.stat().st_mode & 0o077 == 0, file
    assert (server.state_dir / "store").stat().st_mode & 0o077 == 0
    stored = b"".join(file.read_bytes() for file in (server.state_dir / "store").rglob("*.aof"))
    assert key["id"].encode() in stored
    assert key["api_key"].encode() not in stored
