"""Laws of the Ray Serve application: two ingresses and two replicas of a model are one server, even as they change."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import httpx
import numpy as np
import pytest

from keys.embedded import EmbeddedStore
from keys.material import to_text, write_private
from tests.conftest import ROOT, Server, bearer, encode, free_port, smooth_images, start_server, until
from tests.keys.conftest import MASTER, SIGNING

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
pytest.importorskip("ray", reason="needs the extra `ray`")
PREDICT = "/v1/models/tiny/predict"
TWO = {f"{kind}_{end}": "2" for kind in ("ingress", "model") for end in ("min", "max")}
Json = dict[str, Any]


@dataclass
class Cluster:
    """A Ray of this machine and what is deployed on it."""

    process: subprocess.Popen[bytes]
    client: httpx.Client
    admin: dict[str, str]
    arguments: dict[str, str]
    log: Path

    def deploy(self, **changed: str) -> None:
        """Return when Ray Serve says that it is done."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(self.arguments | changed).encode() + b"\n")
        self.process.stdin.flush()
        said = iter(self.process.stdout.readline, b"")  # Ray's own lines among it
        assert b"deployed\n" in said, self.log.read_text()

    def issue(self, limit: int | None) -> dict[str, str]:
        grant = {"name": "partner", "scopes": ["distill"], "budget": {"limit": limit}}
        return bearer(self.client.post("/admin/v1/keys", json=grant, headers=self.admin).json()["api_key"])

    def predict(self, image: bytes, headers: dict[str, str]) -> httpx.Response:
        return self.client.post(PREDICT, content=image, headers=headers)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Secrets in files, as a deployment has them."""
    folder = tmp_path_factory.mktemp("ray")
    write_private(folder / "master", to_text(MASTER).encode())
    write_private(folder / "signing", to_text(SIGNING).encode())
    return folder


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with EmbeddedStore(tmp_path_factory.mktemp("shared")) as store:
        yield f"unix://{Path(store.socket).absolute()}"


@pytest.fixture(scope="module")
def plain(store: str, folder: Path, zoo: Path) -> Iterator[Server]:
    """A server without Ray beside it, on the same store and with the same secrets."""
    shared = {"SDB_REDIS_URL": store, "SDB_MASTER_KEY": to_text(MASTER), "SDB_TOKEN_KEYS": to_text(SIGNING)}
    server = start_server(folder / "plain", zoo, free_port(), **shared)
    yield server
    server.process.terminate()
    server.process.wait(40)


@pytest.fixture(scope="module")
def cluster(store: str, plain: Server, folder: Path, zoo: Path) -> Iterator[Cluster]:
    port = free_port()
    arguments = {
        "redis_url": store,
        "master_key_file": str(folder / "master"),
        "token_keys_file": str(folder / "signing"),
        "state_dir": str(folder / "state"),
        "models_dir": str(zoo),
        "engine": "eager",
        "anonymous_per_minute": "0",
        "ingress_cpus": "0.4",
        "model_cpus": "0.4",
    }
    with (folder / "ray.log").open("wb") as log, ray_on(port, folder, log) as process:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
            running = Cluster(process, client, plain.admin, arguments | TWO, folder / "ray.log")
            running.deploy()
            yield running
        process.communicate(timeout=120)  # the end of its input is the end of it


def ray_on(port: int, home: Path, log: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 - ours
        [sys.executable, "-m", "tests.end_to_end.ray_cluster", str(port)],
        cwd=ROOT,
        env={
            "HOME": str(home),
            "PATH": "/usr/bin:/bin",
            "RAY_USAGE_STATS_ENABLED": "0",
            "OMP_NUM_THREADS": "1",
            # Ray kills a proxy that has not answered three times within this, and a process that shares two cores
            # with another test has not begun to run by then.
            "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "50",
            "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "50",
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
    )


def test_it_answers_what_a_server_of_one_process_answers(cluster: Cluster, plain: Server) -> None:
    key = cluster.issue(None)
    for pixels in smooth_images(4, 48, seed=9).permute(0, 2, 3, 1).numpy():
        for headers in ({}, key):
            here = cluster.predict(encode(pixels), headers)
            there = httpx.post(f"{plain.url}{PREDICT}", content=encode(pixels), headers=headers)
            assert (here.status_code, there.status_code) == (200, 200), (here.text, there.text)
            (one,), (other,) = here.json()["predictions"], there.json()["predictions"]
            assert one["label"] == other["label"]
            np.testing.assert_allclose(one["logits"], other["logits"], atol=1e-4)


def test_a_request_has_one_name(cluster: Cluster) -> None:
    answer = cluster.client.get("/livez", headers={"X-Request-ID": "mine-7"})
    assert answer.headers.get_list("x-request-id") == ["mine-7"]


def test_a_budget_is_exact_across_replicas(cluster: Cluster, photo: bytes) -> None:
    key = cluster.issue(50)
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: cluster.predict(photo, key), range(200)))
    assert Counter(answer.status_code for answer in answers) == {200: 50, 429: 150}
    assert cluster.client.get("/v1/keys/self", headers=key).json()["budget"]["remaining"] == 0


def test_both_ingresses_take_part(cluster: Cluster, photo: bytes) -> None:
    """Each tells the statistics of what it has passed on."""

    def told(_: int) -> int:
        cluster.predict(photo, {})
        stats: Json = cluster.client.get("/v2/models/tiny/stats", headers=cluster.admin).json()
        return int(stats["model_stats"][0]["last_inference"])

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(told, range(64)))) > 1


@contextmanager
def callers(cluster: Cluster, photo: bytes, linger_s: float) -> Iterator[None]:
    """Four of them ask all the time, and for a while after the body; each of their requests must be answered."""
    key, until = cluster.issue(None), float("inf")

    def ask(_: int) -> Counter[int]:
        seen: Counter[int] = Counter()
        while time.monotonic() < until:
            seen[cluster.predict(photo, key).status_code] += 1
        return seen

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask, number) for number in range(4)]
        try:
            yield
        finally:
            until = time.monotonic() + linger_s
        seen = sum((each.result() for each in asking), Counter[int]())
    assert set(seen) == {200}, seen


def replicas_of(model: str, home: Path) -> list[int]:
    """Processes by the title that Ray gives them, and by the folder that this cluster calls its home."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            ours = f"HOME={home}".encode() in (process / "environ").read_bytes().split(b"\0")
            if ours and f"ServeReplica:default:model-{model}".encode() in (process / "cmdline").read_bytes():
                found.append(int(process.name))
    return found


def test_a_killed_replica_of_a_model_takes_no_request_with_it(cluster: Cluster, photo: bytes, folder: Path) -> None:
    with callers(cluster, photo, linger_s=5):
        killed, left = replicas_of("tiny", folder)
        os.kill(killed, signal.SIGKILL)
        # Until another is in its place: Ray Serve notices late, and an update would begin with the one that is left.
        until(lambda: bool(set(replicas_of("tiny", folder)) - {killed, left}), 200)
        cluster.deploy()


def test_a_rolling_update_fails_no_request(cluster: Cluster, photo: bytes) -> None:
    with callers(cluster, photo, linger_s=3):  # replicas that were replaced drain for a while
        cluster.deploy(max_batch="16")
