"""What the release stage costs beside the network: both timed in turns on the same batches, medians of their ratio.

Prints a table and writes results/release.json.
"""

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from app.settings import ZOO
from app.state import DEMO_SECRET
from keys.material import parse_secret
from models.environment import environment
from models.predictor import Predictor

BATCHES = (1, 32, 256)
REPETITIONS = 40
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Time and print."""
    folder = ZOO / "cifar10"
    box = Predictor(folder, parse_secret((folder / DEMO_SECRET).read_text(), "demo"), torch.device("cpu")).box
    rows = []
    with torch.inference_mode():
        for batch in BATCHES:
            images = torch.rand(batch, 3, 32, 32).contiguous(memory_format=torch.channels_last)
            logits: Tensor = box.network(images)
            parts: dict[str, Callable[[], Tensor]] = {
                "network": lambda images=images: box.network(images),  # type: ignore[misc]
                "release": lambda images=images, logits=logits: box.release(images, logits),  # type: ignore[misc]
            }
            times: dict[str, list[float]] = {name: [] for name in parts}
            for _ in range(REPETITIONS):
                for name, part in parts.items():
                    started = time.perf_counter()
                    part()
                    times[name].append(time.perf_counter() - started)
            medians = {name: statistics.median(found) for name, found in times.items()}
            share = statistics.median(
                own / whole for own, whole in zip(times["release"], times["network"], strict=True)
            )
            rows.append(
                {
                    "batch": batch,
                    **{f"{name}_us": round(1e6 * s) for name, s in medians.items()},
                    "share": round(share, 4),
                }
            )
            print(rows[-1])
    document = {"command": "python -m benchmarks.release", **environment(), "rows": rows}
    (RESULTS / "release.json").write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
