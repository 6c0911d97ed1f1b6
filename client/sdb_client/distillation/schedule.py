"""The learning rate over a training."""

import math


def warmed_cosine(progress: float, warmup: float) -> float:
    """The share of the peak learning rate at `progress` in [0, 1) of all steps.

    It rises linearly over the first `warmup` of them and falls to zero on a cosine (Loshchilov & Hutter 2017, eq. 5).
    """
    if progress < warmup:
        return max(progress, 1e-3) / warmup
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))
