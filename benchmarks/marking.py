"""What a key's mark costs beside the network: both timed in turns on the same batches, medians of their ratio.

Prints rows and writes results/marking.json.
"""

import numpy as np

from benchmarks.rows import keep
from benchmarks.shipped import shipped
from benchmarks.turns import compared
from models.engines.engine import Logits
from models.tracing.mark import DEFAULT_STRENGTH, Mark

BATCHES = (1, 32, 256)
REPETITIONS = 40


def main() -> None:
    """Time and print."""
    rows = [measured(batch) for batch in BATCHES]
    keep("marking", {"rows": rows})


def measured(batch: int) -> dict[str, float]:
    """One row."""
    predictor, draw = shipped(), np.random.default_rng(0)
    mark = Mark.derive(bytes(32), "key", len(predictor.manifest.classes))
    pixels, keyed = draw.integers(0, 256, (batch, 32, 32, 3), dtype=np.uint8), np.ones(batch, dtype=np.bool_)
    logits: Logits = predictor(pixels, keyed)
    parts = {"model": lambda: predictor(pixels, keyed), "mark": lambda: mark.apply(pixels, logits, DEFAULT_STRENGTH)}
    row = {"batch": batch, **compared(parts, REPETITIONS)}
    print(row)
    return row


if __name__ == "__main__":
    main()
