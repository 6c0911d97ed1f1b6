"""What a key's mark costs beside the network: both timed in turns on the same batches, medians of their ratio.

Prints a table and writes results/marking.json.
"""

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from app.settings import ZOO
from app.state import DEMO_SECRET
from keys.material import parse_secret
from models.environment import environment
from models.predictor import Predictor
from models.tracing.mark import DEFAULT_STRENGTH, Mark

BATCHES = (1, 32, 256)
REPETITIONS = 40
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Time and print."""
    folder, draw = ZOO / "cifar10", np.random.default_rng(0)
    predictor = Predictor(folder, parse_secret((folder / DEMO_SECRET).read_text(), "demo"), torch.device("cpu"))
    mark, rows = Mark.derive(bytes(32), "key", len(predictor.manifest.classes)), []
    for batch in BATCHES:
        pixels = draw.integers(0, 256, (batch, 32, 32, 3), dtype=np.uint8)
        keyed = np.ones(batch, dtype=np.bool_)
        logits = predictor(pixels, keyed)
        parts: dict[str, Callable[[], object]] = {
            "model": lambda pixels=pixels, keyed=keyed: predictor(pixels, keyed),  # type: ignore[misc]
            "mark": lambda pixels=pixels, logits=logits: mark.apply(pixels, logits, DEFAULT_STRENGTH),  # type: ignore[misc]
        }
        times: dict[str, list[float]] = {name: [] for name in parts}
        for _ in range(REPETITIONS):
            for name, part in parts.items():
                started = time.perf_counter()
                part()
                times[name].append(time.perf_counter() - started)
        share = statistics.median(own / whole for own, whole in zip(times["mark"], times["model"], strict=True))
        medians = {f"{name}_us": round(1e6 * statistics.median(found)) for name, found in times.items()}
        rows.append({"batch": batch, **medians, "share": round(share, 4)})
        print(rows[-1])
    document = {"command": "python -m benchmarks.marking", **environment(), "rows": rows}
    (RESULTS / "marking.json").write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
