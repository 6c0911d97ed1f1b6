"""What it costs to seal an image of 150 kB: requests of one client to a real server, in turns, medians of the latency.

A sealed image is charged like a soft label, so it is compared with the same image sent plain by a stranger, who is not
charged, and by a key holder, who is.
"""

import argparse
import io
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

import httpx
import numpy as np
from PIL import Image
from sdb_client.sealed import MEDIA_TYPE, seal

from benchmarks.rows import keep, show
from benchmarks.serving.processes import Process
from benchmarks.serving.product import issue, serving
from benchmarks.turns import in_turns
from keys.material import from_text

MODEL = "cifar10"
SIDE = 223  # of noise: a PNG of 150 kB
WARM_UP = 20
Ask = Callable[[], httpx.Response]


def main() -> None:
    """Measure, print a table and write results/sealed.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=300)
    arguments = parser.parse_args()
    with serving() as (server, state), httpx.Client(base_url=f"http://127.0.0.1:{server.port}") as client:
        ways = {way: partial(_answered, ask) for way, ask in _ways(server, state, client).items()}
        times = in_turns(ways, arguments.requests, warm_up=WARM_UP)
    p50 = {way: 1000 * statistics.median(found) for way, found in times.items()}
    rows = [
        {"way": way, "p50_ms": round(ms, 3), "more_ms": round(ms - p50["plain, no key"], 3)} for way, ms in p50.items()
    ]
    show(f"an image of {len(_picture()) // 1000} kB", rows)
    keep("sealed", {"rows": rows})


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


def _answered(ask: Ask) -> None:
    assert ask().status_code == 200


if __name__ == "__main__":
    main()
