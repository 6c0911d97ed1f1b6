"""What the extraction watch costs a server: processor time beside the same without it, per request.

Two parts. In the model's worker, the engine's graph has a column more; in the event loop, what was sent is judged.
While the watch is off neither is there. Writes results/watch_cost.json.
"""

import argparse
import time
from typing import Any

import numpy as np
import torch

from benchmarks.rows import keep
from benchmarks.shipped import FOLDER, shipped
from benchmarks.turns import in_turns, median_us
from models.engines.agreement import pictures
from models.engines.choice import Wanted
from models.predictor import Predictor
from models.watch import Reference, Suspicion, thumbnails

SIZES, SIDES = (1, 8, 32, 256), (32, 224)


def main() -> None:
    """Time both parts and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=["eager", "onnxruntime"], default="onnxruntime")
    parser.add_argument("--calls", type=int, default=300)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    on, off = (shipped(Wanted(arguments.engine, watched=watched)) for watched in (True, False))
    reference = Reference.load(FOLDER, on.manifest)
    worker = [_worker(off, on, size, arguments.calls) for size in SIZES[:3]]
    judging = [_judging(reference, size, side, arguments.calls) for side in SIDES for size in SIZES]
    keep(f"watch_cost --engine {arguments.engine}", {"worker": worker, "judging": judging})


def _worker(off: Predictor, on: Predictor, size: int, calls: int) -> dict[str, Any]:
    pixels, nobody = pictures(size, 32, 32), np.zeros(size, np.bool_)
    parts = {"off": lambda: off(pixels, nobody), "on": lambda: on.watched(pixels, nobody)}
    times = in_turns(parts, calls, clock=time.thread_time)
    row = {"images": size, **{f"{name}_us": round(median_us(times, name), 1) for name in times}}
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

    took = median_us(in_turns({"judge": judge}, calls, clock=time.thread_time), "judge")
    row = {"images": size, "side": side, "us": round(took, 1), "us_per_image": round(took / size, 2)}
    print(row)
    return row


if __name__ == "__main__":
    main()
