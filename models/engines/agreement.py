"""Whether an engine answers as the eager one does, asked with made-up pictures.

Knows answers and what rounding may do to them; knows no engine.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch.nn import functional as F

from models.data import Pixels, pixels_of
from models.engines.engine import Engine, Logits, Rights

SIZES = (1, 3, 8)  # batches that are compared; graphs go wrong at 1, and where a size became a constant
COARSE = 4  # cells to a side that a picture is drawn in before it is smoothed
GRAIN = 8.0  # standard deviation of the noise on it, of 255


class Disagreement(ValueError):
    """An engine answers differently; the message says by how much."""


def pictures(count: int, height: int, width: int, seed: int = 0) -> Pixels:
    """Pictures uint8 [count, height, width, 3] of smooth colours with grain: for a network, closer to photographs than
    noise is.
    """
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, COARSE, COARSE, generator=generator) * 255
    smooth = F.interpolate(coarse, (height, width), mode="bicubic")
    grained = smooth + GRAIN * torch.randn(smooth.shape, generator=generator)
    return pixels_of(grained.clamp(0, 255).to(torch.uint8))


def batches(height: int, width: int) -> Iterator[tuple[Pixels, Rights, Rights]]:
    """Arguments of an engine, of every size in `SIZES`; among their rows are all combinations of rights."""
    for size in SIZES:
        rows = np.arange(size)
        yield pictures(size, height, width, seed=size), rows % 2 == 0, rows % 4 < 2


def check(
    engine: Engine, reference: Engine, height: int, width: int, tolerance: float, *, classes: int | None = None
) -> None:
    """Make sure that `engine` answers as `reference`, within `tolerance` of a row's largest logit (at least 1).

    A public row is compared where its top-1 is not a matter of rounding: where the two largest true logits lie further
    apart than both engines together may be off. There, an equal answer includes an equal top-1. Columns beyond those of
    the `classes` are no logits, and compared with them.

    Raises:
        Disagreement: it does not, or answers in another shape or with numbers that are not finite.
    """
    for pixels, keyed, unlocked in batches(height, width):
        true = reference(pixels, np.ones_like(keyed), unlocked)[:, :classes]
        allowed = tolerance * np.abs(true).max(1).clip(1)
        _, second, first = np.split(np.sort(true, 1), [-2, -1], 1)
        clear = (first - second)[:, 0] > 2 * allowed
        _compare(engine(pixels, keyed, unlocked), reference(pixels, keyed, unlocked), keyed | clear, tolerance)


def _compare(answer: Logits, expected: Logits, rows: Rights, tolerance: float) -> None:
    if answer.shape != expected.shape or answer.dtype != expected.dtype or not np.isfinite(answer).all():
        raise Disagreement(f"answers {answer.dtype} {answer.shape}, or not with finite numbers")
    off = np.abs(answer - expected).max(1) / np.abs(expected).max(1).clip(1)
    worst = float(off[rows].max(initial=0))
    if worst > tolerance:
        raise Disagreement(f"answers differ by {worst:.1e} of the largest logit, {tolerance:.0e} is allowed")
