"""The serving benchmark: a real server process under load, against the ceiling of the same work without HTTP.

The ceiling is decode + one batched forward pass in this process. Tiers and ceiling take turns, the medians of the
repetitions count, and only ratios of one run mean anything on a shared machine.
"""

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from app import images
from app.settings import ZOO
from app.state import DEMO_SECRET
from keys.material import parse_secret
from models.environment import environment
from models.predictor import Predictor

RESULTS = Path(__file__).parent / "results"
PORT = 8765
URL = f"http://127.0.0.1:{PORT}"
BATCH = 32


async def load_test(request: bytes, concurrency: int, seconds: float) -> tuple[float, float, float]:
    """Requests a second, median and 99th percentile of the latency in ms; every answer must be 200."""
    latencies: list[float] = []
    stop = time.perf_counter() + seconds

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", PORT)
        while time.perf_counter() < stop:
            started = time.perf_counter()
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0]))
            latencies.append(1000 * (time.perf_counter() - started))
        writer.close()

    await asyncio.gather(*(client() for _ in range(concurrency)))
    latencies.sort()
    return len(latencies) / seconds, statistics.median(latencies), latencies[int(0.99 * len(latencies))]


def ceiling(predictor: Predictor, encoded: bytes, seconds: float, *, keyed: bool) -> float:
    """Images a second of decode and forward pass in this process, in full batches."""
    done, stop = 0, time.perf_counter() + seconds
    while time.perf_counter() < stop:
        pixels = np.stack([predictor.fit(images.decode(encoded, 10**6)) for _ in range(BATCH)])
        predictor(pixels, np.full(BATCH, keyed))
        done += BATCH
    return done / seconds


def main() -> None:
    """Measure, print a table and write results/serving.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--repetitions", type=int, default=3)
    arguments = parser.parse_args()
    secret = parse_secret((ZOO / "cifar10" / DEMO_SECRET).read_text(), "demo")
    predictor = Predictor(ZOO / "cifar10", secret, torch.device("cpu"))
    encoded = (Path(__file__).parent.parent / "docs" / "example.png").read_bytes()
    with running() as folder:
        rows = _measure(folder, predictor, encoded, arguments.seconds, arguments.repetitions)
    _report(rows)


@contextmanager
def running() -> Iterator[Path]:
    """A server with the shipped model, ready to be asked, until the body ends; its state folder."""
    with tempfile.TemporaryDirectory() as folder:
        environ = {"SDB_STATE_DIR": folder, "SDB_PORT": str(PORT), "SDB_MODELS_DIR": str(ZOO)}
        command = [str(Path(sys.executable).parent / "sdb"), "serve"]
        with (Path(folder) / "log").open("wb") as log:
            server = subprocess.Popen(command, env=environ, stdout=log, stderr=log)  # noqa: S603 - ours
        try:
            _wait_until_ready()
            yield Path(folder)
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait()


def _wait_until_ready() -> None:
    for _ in range(300):
        try:
            if httpx.get(f"{URL}/readyz").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)


def _measure(
    folder: Path, predictor: Predictor, encoded: bytes, seconds: float, repetitions: int
) -> list[dict[str, float | str]]:
    public = _request(encoded, "")
    distill = _request(encoded, f"Authorization: Bearer {_token(folder)}\r\n")
    cells: dict[str, Callable[[], tuple[float, float, float]]] = {
        "ceiling, public rows": lambda: (ceiling(predictor, encoded, seconds, keyed=False), 0, 0),
        "ceiling, distill rows": lambda: (ceiling(predictor, encoded, seconds, keyed=True), 0, 0),
        "public, 1 client": lambda: asyncio.run(load_test(public, 1, seconds)),
        "public, 32 clients": lambda: asyncio.run(load_test(public, 32, seconds)),
        "distill, 1 client": lambda: asyncio.run(load_test(distill, 1, seconds)),
        "distill, 32 clients": lambda: asyncio.run(load_test(distill, 32, seconds)),
    }
    measured: dict[str, list[tuple[float, float, float]]] = {name: [] for name in cells}
    for name, run in [*cells.items()] * repetitions:
        measured[name].append(run())
    medians = {name: [statistics.median(run[i] for run in runs) for i in range(3)] for name, runs in measured.items()}
    return [
        {
            "what": name,
            "per_second": round(rate, 1),
            "of_ceiling": round(rate / medians[f"ceiling, {name.partition(',')[0]} rows"][0], 2)
            if "client" in name
            else 1.0,
            "p50_ms": round(p50, 1),
            "p99_ms": round(p99, 1),
        }
        for name, (rate, p50, p99) in medians.items()
    ]


def issue(folder: Path, **grant: object) -> dict[str, Any]:
    """A new client key of the server with this state folder."""
    admin = {"Authorization": f"Bearer {(folder / 'admin.key').read_text().strip()}"}
    body = {"name": "benchmark", "budget": {"limit": 10**9}, **grant}
    key: dict[str, Any] = httpx.post(f"{URL}/admin/v1/keys", json=body, headers=admin).json()
    return key


def _token(folder: Path) -> str:
    key = issue(folder, scopes=["predict", "distill"])
    form = {"grant_type": "client_credentials"}
    return str(httpx.post(f"{URL}/oauth2/token", data=form, auth=(key["id"], key["api_key"])).json()["access_token"])


def _request(encoded: bytes, headers: str) -> bytes:
    head = f"POST /v1/models/cifar10/predict HTTP/1.1\r\nHost: box\r\n{headers}Content-Length: {len(encoded)}\r\n\r\n"
    return head.encode() + encoded


def _report(rows: list[dict[str, float | str]]) -> None:
    table = Table(*rows[0], title=f"serving cifar10 on {os.cpu_count()} cores, medians")
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    Console().print(table)
    RESULTS.mkdir(exist_ok=True)
    document = {"environment": {"command": "python -m benchmarks.serving", **environment()}, "rows": rows}
    (RESULTS / "serving.json").write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
