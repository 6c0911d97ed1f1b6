"""What the extraction watch costs a server: processor time beside the same without it, per request.

Two parts. In the model's worker, the engine's graph has a column more; in the event loop, what was sent is judged.
While the watch is off neither is there. Writes results/watch_cost.json.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from app.settings import ZOO
from app.state import DEMO_SECRET
from keys.material import parse_secret
from models import bundles
from models.engines.agreement import pictures
from models.engines.choice import EngineName, Wanted
from models.environment import environment
from models.predictor import Predictor
from models.watch import Reference, Suspicion, thumbnails

SIZES, SIDES = (1, 8, 32, 256), (32, 224)
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Time both parts and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=["eager", "onnxruntime"], default="onnxruntime")
    parser.add_argument("--calls", type=int, default=300)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder = ZOO / "cifar10"
    secret = parse_secret((folder / DEMO_SECRET).read_text(), "demo")
    engine: EngineName = arguments.engine
    on, off = (
        Predictor(folder, secret, torch.device("cpu"), wanted=Wanted(engine, watched=on)) for on in (True, False)
    )
    reference = Reference.load(folder, on.manifest.sha256[bundles.WEIGHTS], len(on.manifest.classes))
    worker = [_worker(off, on, size, arguments.calls) for size in SIZES[:3]]
    judging = [_judging(reference, size, side, arguments.calls) for side in SIDES for size in SIZES]
    document = {
        "command": f"python -m benchmarks.watch_cost --engine {engine}",
        **environment(),
        "worker": worker,
        "judging": judging,
    }
    (RESULTS / "watch_cost.json").write_text(json.dumps(document, indent=2) + "\n")


def _worker(off: Predictor, on: Predictor, size: int, calls: int) -> dict[str, Any]:
    pixels, nobody = pictures(size, 32, 32), np.zeros(size, np.bool_)
    without, with_it = _together(lambda: off(pixels, nobody), lambda: on.watched(pixels, nobody), calls=calls)
    row = {"images": size, "off_us": round(without, 1), "on_us": round(with_it, 1)}
    print(row)
    return row


def _judging(reference: Reference, size: int, side: int, calls: int) -> dict[str, Any]:
    """A caller who always sends something else, which costs most: nothing is like what came before."""
    draw = np.random.default_rng(0)
    sent = [draw.integers(0, 256, (size, side, side, 3), dtype=np.uint8) for _ in range(8)]
    odds, top1 = draw.normal(3, 3, size).astype(np.float32), draw.integers(0, 10, size)
    suspicion, number = Suspicion(), iter(range(10**9))

    def judge() -> None:
        suspicion.add(reference, odds, top1, thumbnails(sent[next(number) % len(sent)]))

    (took,) = _together(judge, calls=calls)
    row = {"images": size, "side": side, "us": round(took, 1), "us_per_image": round(took / size, 2)}
    print(row)
    return row


def _together(*steps: Callable[[], object], calls: int) -> list[float]:
    """The median processor time (µs) of each step; in turns, so that what disturbs one disturbs all."""
    times: list[list[float]] = [[] for _ in steps]
    for _ in range(calls):
        for step, row in zip(steps, times, strict=True):
            began = time.thread_time_ns()
            step()
            row.append((time.thread_time_ns() - began) / 1000)
    return [median(row) for row in times]


if __name__ == "__main__":
    main()
