"""`make gpu`: the tests marked gpu, and the predictor's speed on CUDA against the CPU; nothing without a GPU."""

import json
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from app.settings import ZOO
from app.state import DEMO_SECRET
from keys.material import parse_secret
from models.environment import environment
from models.predictor import Predictor

RESULTS = Path(__file__).parent / "results"


def images_per_second(device: str, batch: int, seconds: float = 2.0) -> float:
    """Median over batches of images a second through `Predictor`, copies to and from the device included."""
    folder = ZOO / "cifar10"
    predictor = Predictor(folder, parse_secret((folder / DEMO_SECRET).read_text(), "demo"), torch.device(device))
    pixels = np.random.default_rng(0).integers(0, 256, (batch, 32, 32, 3), np.uint8)
    keyed = np.arange(batch) % 2 == 0
    times = []
    stop = time.perf_counter() + seconds
    while time.perf_counter() < stop:
        started = time.perf_counter()
        predictor(pixels, keyed)
        times.append(time.perf_counter() - started)
    return batch / statistics.median(times)


def main() -> int:
    """Test, time, write results/gpu.json."""
    if not torch.cuda.is_available():
        print("no CUDA device here: nothing to check")
        return 0
    failed = pytest.main(["-m", "gpu", "-q", "tests"])
    rows = [
        {"device": device, "batch": batch, "images_per_second": round(images_per_second(device, batch))}
        for batch in (1, 32, 256)
        for device in ("cpu", "cuda")
    ]
    RESULTS.mkdir(exist_ok=True)
    document = {"environment": {"command": "python -m benchmarks.gpu", **environment()}, "rows": rows}
    (RESULTS / "gpu.json").write_text(json.dumps(document, indent=2) + "\n")
    print(json.dumps(document, indent=2))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
