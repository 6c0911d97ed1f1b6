"""The slow waves of an image: the few numbers that a mark is a function of.

Knows pixels only. Two-dimensional cosines, so slow that a crop, a resize or JPEG leaves them as they are, and even from
left to right, so that the mirror image has the same ones. Natural images have nearly the same spread of each of them,
whatever their size (docs/tracing.md), so nothing has to be fitted.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray
from sdb_client.fitting import Pixels

DOWN = 3  # half-waves from top to bottom: 0, 1, 2
ACROSS = 2  # and from left to right: 0, 2, the even ones
WAVES = 3 * DOWN * ACROSS
GREY = 0.46  # the mean of natural images
SPREADS = (0.125, 0.075, 0.1)  # of their lightness, of red less green, of blue less yellow
OPPONENT = ((1 / 3, 1 / 3, 1 / 3), (1, -1, 0), (-1 / 2, -1 / 2, 1))

Floats = NDArray[np.float32]


def waves(pixels: Pixels) -> Floats:
    """Pixels uint8 [N, H, W, 3] → float32 [N, WAVES], each of mean about 0 and standard deviation about 1."""
    count, height, width, _ = pixels.shape
    down, across = _cosines(height, width)
    lines = down @ pixels.reshape(count, height, width * 3).astype(np.float32)
    found: Floats = across @ lines.reshape(count, DOWN, width, 3)
    found[:, 0, 0] -= GREY
    opposed: Floats = found @ _colours()
    return opposed.reshape(count, WAVES)


@cache
def _cosines(height: int, width: int) -> tuple[Floats, Floats]:
    """[DOWN, H] of pixels in 0 … 255, and [ACROSS, W]: made equally strong, as natural images fall off by 1/f."""
    down, across = np.arange(DOWN)[:, None], 2 * np.arange(ACROSS)[:, None]
    vertical = (1 + down) * np.cos(np.pi * down * (np.arange(height) + 0.5) / height) / height / 255
    horizontal = (1 + across) * np.cos(np.pi * across * (np.arange(width) + 0.5) / width) / width
    return vertical.astype(np.float32), horizontal.astype(np.float32)


@cache
def _colours() -> Floats:
    return np.ascontiguousarray((np.array(OPPONENT) / np.array(SPREADS)[:, None]).T, dtype=np.float32)
