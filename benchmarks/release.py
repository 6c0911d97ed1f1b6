"""What the release stage costs beside the network: both timed in turns on the same batches, medians of their ratio.

Prints rows and writes results/release.json.
"""

import torch
from torch import Tensor

from benchmarks.rows import keep
from benchmarks.shipped import shipped
from benchmarks.turns import compared

BATCHES = (1, 32, 256)
REPETITIONS = 40


def main() -> None:
    """Time and print."""
    rows = [measured(batch) for batch in BATCHES]
    keep("release", {"rows": rows})


@torch.inference_mode()
def measured(batch: int) -> dict[str, float]:
    """One row."""
    box = shipped().box
    images = torch.rand(batch, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    logits: Tensor = box.network(images)
    parts = {"network": lambda: box.network(images), "release": lambda: box.release(images, logits)}
    row = {"batch": batch, **compared(parts, REPETITIONS)}
    print(row)
    return row


if __name__ == "__main__":
    main()
