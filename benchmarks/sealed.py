"""What it costs to seal an image of 150 kB: requests of one client to a real server, in turns, medians of the latency.

A sealed image is charged like a soft label, so it is compared with the same image sent plain by a stranger, who is not
charged, and by a key holder, who is.
"""

import argparse
import io
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table
from sdb_client.sealed import MEDIA_TYPE, seal

from benchmarks.serving.processes import Process
from benchmarks.serving.product import issue, shipped
from keys.material import from_text
from models.environment import environment

MODEL = "cifar10"
RESULTS = Path(__file__).parent / "results"
SIDE = 223  # of noise: a PNG of 150 kB
Ask = Callable[[], httpx.Response]


def main() -> None:
    """Measure, print a table and write results/sealed.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=300)
    arguments = parser.parse_args()
    with shipped() as (server, state), httpx.Client(base_url=f"http://127.0.0.1:{server.port}") as client:
        ways = _ways(server, state, client)
        latencies: dict[str, list[float]] = {way: [] for way in ways}
        for number in range(arguments.requests + 20):
            for way, ask in ways.items():
                started = time.perf_counter()
                assert ask().status_code == 200
                if number >= 20:
                    latencies[way].append(1000 * (time.perf_counter() - started))
    _report({way: statistics.median(times) for way, times in latencies.items()})


def _ways(server: Process, state: Path, client: httpx.Client) -> dict[str, Ask]:
    image = _picture()
    sealing = issue(server, state, scopes=["decrypt"], image_key={"scheme": "sealed"})
    distilling = issue(server, state, scopes=["distill"])
    secret, kid = from_text(sealing["image_key"]["secret"]), sealing["image_key"]["kid"]
    path = f"/v1/models/{MODEL}/predict"

    def plain(key: str | None) -> Ask:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        return lambda: client.post(path, content=image, headers=headers)

    headers = {"Authorization": f"Bearer {sealing['api_key']}", "Content-Type": MEDIA_TYPE}
    return {
        "plain, no key": plain(None),
        "plain, charged": plain(distilling["api_key"]),
        "sealed": lambda: client.post(path, content=seal(image, secret, kid=kid, model=MODEL), headers=headers),
    }


def _picture() -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _report(medians: dict[str, float]) -> None:
    base = medians["plain, no key"]
    table = Table("way", "p50 ms", "more than plain, ms", title=f"an image of {len(_picture()) // 1000} kB")
    for way, median in medians.items():
        table.add_row(way, f"{median:.2f}", f"{median - base:+.2f}")
    Console().print(table)
    rows = [{"way": way, "p50_ms": round(median, 3)} for way, median in medians.items()]
    document = {"environment": {"command": "python -m benchmarks.sealed", **environment()}, "rows": rows}
    (RESULTS / "sealed.json").write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
