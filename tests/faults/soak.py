"""An hour at a steady load: does anything grow, slow down, or not add up?

    python -m tests.faults.soak --minutes 60

All doors are asked while keys come, are used up, rotated and revoked. The load is a share of what the server was
measured to answer just before. Writes benchmarks/results/soak.json, and docs/figures/soak.svg if matplotlib is there.
"""

import argparse
import base64
import json
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from sdb_client.sealed import MEDIA_TYPE, seal

from app.settings import ZOO
from keys.material import from_text
from models.environment import environment
from tests.conftest import ROOT, Server, bearer, encode, smooth_images
from tests.faults.books import charged
from tests.faults.processes import ready, spawn

RESULTS, FIGURE = ROOT / "benchmarks" / "results" / "soak.json", ROOT / "docs" / "figures" / "soak.svg"
CALLERS, SHARE, MEASURED_FOR_S = 4, 0.7, 10.0
SAMPLES, WARM_UP = 120, 0.25  # of a soak; the share of it before which nothing is compared
MOST_GROWTH, MOST_SLOWDOWN = 0.02, 1.2  # from the first third after the warm-up to the last; of the median latency
MOST_STEPS_MIB = 24.0  # growth that is allowed anyway: allocators take 8 MiB at once
LIVES = 5  # answers of a key that comes and goes
MANY = 8  # images of a call with several
Ask = Callable[[httpx.Client], httpx.Response]


@dataclass(frozen=True)
class Sample:
    """The process at one moment, and the answers since the last."""

    at_s: float
    rss_mib: float
    descriptors: int
    threads: int
    answers: int
    p50_ms: float
    p99_ms: float


@dataclass
class Counts:
    """What callers saw; guarded by `lock`."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    latencies: list[float] = field(default_factory=list)
    answers: int = 0
    charged: int = 0
    refused: dict[str, int] = field(default_factory=dict)

    def note(self, took_s: float, answer: httpx.Response, images: int) -> None:
        """Take down one answer, and for how many images the key is charged if it is a good one."""
        with self.lock:
            self.answers += 1
            self.latencies.append(1000 * took_s)
            if answer.status_code == 200:
                self.charged += images
            else:
                line = f"{answer.status_code} {answer.text[:120]}"
                self.refused[line] = self.refused.get(line, 0) + 1

    def since_last(self) -> tuple[int, float, float]:
        """Answers, and the median and the 99th percentile of what they took (ms), since this was asked last."""
        with self.lock:
            latencies, self.latencies = self.latencies, []
        p50, p99 = np.percentile(latencies, [50, 99]) if latencies else (0.0, 0.0)
        return len(latencies), float(p50), float(p99)


class Soak:
    """A server, and callers at all of its doors."""

    def __init__(self, server: Server, model: str) -> None:
        self._server, self._counts, self._over = server, Counts(), threading.Event()
        self.key = self._issue(10**9, scopes=["predict", "distill", "decrypt"], image_key={"scheme": "sealed"})
        self._photo = encode(smooth_images(1, 48)[0].permute(1, 2, 0).numpy())
        self._predict, self._pause_s = f"/v1/models/{model}/predict", 0.0
        self._doors = self._all_doors(model)
        self.churned = 0

    def _issue(self, limit: int, **more: object) -> dict[str, Any]:
        grant = {"name": "soak", "scopes": ["predict", "distill"], "budget": {"limit": limit}} | more
        url = f"{self._server.url}/admin/v1/keys"
        answer = httpx.post(url, json=grant, headers=self._server.admin, timeout=60)
        key: dict[str, Any] = answer.raise_for_status().json()
        return key

    def _all_doors(self, model: str) -> list[tuple[Ask, int]]:
        """Each with the number of images that the key is charged for."""
        with_key, admin = bearer(self.key["api_key"]), self._server.admin
        image_key = self.key["image_key"]
        secret, kid = from_text(image_key["secret"]), image_key["kid"]
        sealed, several = with_key | {"Content-Type": MEDIA_TYPE}, [("image", self._photo)] * MANY
        form, basic = {"grant_type": "client_credentials"}, (self.key["id"], self.key["api_key"])
        inline = base64.b64encode(self._photo).decode()
        tensor = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [inline]}
        return [
            (lambda client: client.post(self._predict, content=self._photo), 0),
            (lambda client: client.post(self._predict, content=self._photo, headers=with_key), 1),
            (lambda client: client.post(self._predict, files=several, headers=with_key), MANY),
            (
                lambda client: client.post(
                    self._predict, content=seal(self._photo, secret, kid=kid, model=model), headers=sealed
                ),
                1,
            ),
            (
                lambda client: client.post(f"/v2/models/{model}/infer", json={"inputs": [tensor]}, headers=with_key),
                1,
            ),
            (lambda client: client.post(f"/hf/models/{model}", json={"inputs": inline}, headers=with_key), 1),
            (lambda client: client.post("/oauth2/token", data=form, auth=basic), 0),
            (lambda client: client.get("/v1/keys/self", headers=with_key), 0),
            (lambda client: client.get("/admin/v1/keys?limit=20", headers=admin), 0),
            (lambda client: client.get("/admin/v1/audit?limit=20", headers=admin), 0),
            (lambda client: client.get(f"/v2/models/{model}/stats", headers=with_key), 0),
            (lambda client: client.get("/metrics", headers=admin), 0),
            (lambda client: client.get("/readyz"), 0),
        ]

    def run(self, minutes: float) -> dict[str, Any]:
        """Everything that was measured; raises AssertionError where a promise broke."""
        threads = [threading.Thread(target=self._call, args=(number,)) for number in range(CALLERS)]
        for thread in threads:
            thread.start()
        try:
            time.sleep(MEASURED_FOR_S)
            capacity = self._counts.since_last()[0] / MEASURED_FOR_S
            self._pause_s = CALLERS / capacity * (1 - SHARE) / SHARE  # of each, between an answer and the next question
            threads.append(threading.Thread(target=self._churn))
            threads[-1].start()
            samples = self._watched(60 * minutes)
        finally:
            self._over.set()
            for thread in threads:
                thread.join()
        return self._judged(samples, capacity, minutes)

    def _call(self, number: int) -> None:
        with httpx.Client(base_url=self._server.url, timeout=60) as client:
            turn = number
            while not self._over.is_set():
                ask, images = self._doors[turn % len(self._doors)]
                began = time.perf_counter()
                answer = ask(client)
                self._counts.note(time.perf_counter() - began, answer, images)
                turn += 1
                time.sleep(self._pause_s)

    def _churn(self) -> None:
        """Keys come, are used up and go."""
        url = f"{self._server.url}/admin/v1/keys"
        while not self._over.wait(0.5):
            key = self._issue(LIVES)
            with httpx.Client(base_url=self._server.url, headers=bearer(key["api_key"]), timeout=60) as client:
                statuses = [client.post(self._predict, content=self._photo).status_code for _ in range(LIVES + 1)]
            assert statuses == [200] * LIVES + [429]
            for act in ("rotate", "revoke"):
                answer = httpx.post(f"{url}/{key['id']}/{act}", headers=self._server.admin, timeout=60)
                assert answer.status_code == 200, answer.text
            self.churned += 1

    def _watched(self, seconds: float) -> list[Sample]:
        samples, began = list[Sample](), time.monotonic()
        while (at_s := time.monotonic() - began) < seconds:
            self._over.wait(seconds / SAMPLES)
            samples.append(self._sample(at_s))
        return samples

    def _sample(self, at_s: float) -> Sample:
        process = Path(f"/proc/{self._server.process.pid}")
        status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
        rss_mib = int(status["VmRSS"].split()[0]) / 1024
        descriptors = len(list((process / "fd").iterdir()))
        return Sample(at_s, rss_mib, descriptors, int(status["Threads"]), *self._counts.since_last())

    def _judged(self, samples: list[Sample], capacity: float, minutes: float) -> dict[str, Any]:
        after = samples[int(WARM_UP * len(samples)) :]
        third = max(1, len(after) // 3)
        first, last = after[:third], after[-third:]
        memory = [_mean(part, "rss_mib") for part in (first, last)]
        spent = charged(self._server.state_dir, self.key["id"])
        return {
            "minutes": minutes,
            "environment": environment(),
            "capacity_per_s": round(capacity, 1),
            "load_per_s": round(sum(one.answers for one in after) / (after[-1].at_s - after[0].at_s or 1), 1),
            "answers": self._counts.answers,
            "refused": self._counts.refused,
            "keys_churned": self.churned,
            "memory_mib": [round(mib, 1) for mib in memory],
            "memory_growth": round(memory[1] / memory[0] - 1, 4),
            "descriptors": [min(one.descriptors for one in after), max(one.descriptors for one in after)],
            "threads": [min(one.threads for one in after), max(one.threads for one in after)],
            "p50_ms": [round(_mean(part, "p50_ms"), 2) for part in (first, last)],
            "p99_ms": [round(_mean(part, "p99_ms"), 2) for part in (first, last)],
            "answered_with_key": self._counts.charged,
            "charged": spent,
            "samples": [asdict(one) for one in samples],
        }


def _mean(samples: list[Sample], name: str) -> float:
    return float(np.mean([getattr(one, name) for one in samples]))


def check(result: dict[str, Any]) -> None:
    """Raise AssertionError where a promise broke."""
    assert not result["refused"], result["refused"]
    assert result["charged"] == result["answered_with_key"], "the counter is what was answered"
    assert result["keys_churned"] > 0
    before, after = result["memory_mib"]
    assert after - before < max(MOST_GROWTH * before, MOST_STEPS_MIB), result["memory_mib"]
    least, most = result["descriptors"]
    assert most - least <= 12, "connections of callers come and go; nothing stays"
    assert result["threads"][1] - result["threads"][0] <= 2


def draw(result: dict[str, Any], path: Path) -> None:
    """Memory and latency over the time."""
    from matplotlib import pyplot as plt  # noqa: PLC0415 - of an extra

    minutes = [one["at_s"] / 60 for one in result["samples"]]
    figure, (memory, latency) = plt.subplots(1, 2, figsize=(9, 2.6), layout="constrained")
    used = [one["rss_mib"] for one in result["samples"]]
    memory.plot(minutes, used, color="#2a7f62")
    memory.set(xlabel="minutes", ylabel="memory, MiB", ylim=(0, 1.2 * max(used)))
    for name, colour in (("p50_ms", "#2a7f62"), ("p99_ms", "#c8553d")):
        latency.plot(minutes, [one[name] for one in result["samples"]], color=colour, label=name[:3])
    latency.set(xlabel="minutes", ylabel="latency, ms", ylim=(0, None))
    latency.legend(frameon=False)
    figure.savefig(path)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--models", type=Path, default=ZOO)
    parser.add_argument("--model", default="cifar10")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--figure", type=Path, default=FIGURE)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = spawn(Path(folder) / "var", given.models, {"SDB_ENGINE": "auto"})
        try:
            ready(server, within_s=600)
            result = Soak(server, given.model).run(given.minutes)
        finally:
            server.process.terminate()
            server.process.wait()
    given.out.write_text(json.dumps(result, indent=1) + "\n")
    with suppress(ImportError):
        draw(result, given.figure)
    check(result)
    first, last = result["p50_ms"]
    assert last < MOST_SLOWDOWN * first, result["p50_ms"]


if __name__ == "__main__":
    main()
