"""What a sequence of steps comes to for images of one size: one gather and one xor.

Knows flat images; knows no key but through the steps, and nothing of FFX, which is neither of the two.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdb_client.derivation import TransformError
from sdb_client.steps import Step

ITEM_BYTES = (8, 4, 2)  # what may move as one item, the widest first


def fuse(steps: Sequence[Step], block: int, channels: int, height: int, width: int) -> "Fused":
    """The steps, in order, on images of one size whose rows of values lie one after the other.

    Raises:
        TransformError: blocks do not fill the image, or a key does not fit their number.
    """
    check_size(height, width, block)
    places = _places(height, width, block, channels)
    entries: NDArray[Any] = 2 * places  # the lowest bit says whether an entry is negated by now
    for step in steps:
        entries = step.permute(entries) ^ step.negated(places.shape)
    gather, xor = np.empty(places.size, dtype=np.intp), np.empty(places.size, dtype=np.uint8)
    gather[places], xor[places] = entries >> 1, 255 * (entries & 1)
    return Fused(gather, xor)


def check_size(height: int, width: int, block: int) -> None:
    """Make sure that blocks fill an image.

    Raises:
        TransformError: they do not.
    """
    if height < 1 or width < 1 or height % block or width % block:
        raise TransformError(f"blocks of {block} do not fill an image of {height} by {width}")


def _places(height: int, width: int, block: int, channels: int) -> NDArray[np.intp]:
    """Where the values of every block lie in the flat image: intp [N, n]."""
    flat = np.arange(height * width * channels)
    grid = flat.reshape(height // block, block, width // block, block, channels)
    return grid.transpose(0, 2, 1, 3, 4).reshape(-1, block * block * channels)


@dataclass(frozen=True, eq=False)
class Fused:
    """Flat images [R, P] → images[:, gather] ^ xor. gather: a permutation, intp [P]; xor: uint8 [P]."""

    gather: NDArray[np.intp]
    xor: NDArray[np.uint8]

    def __call__(self, flat: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Flat images uint8 [R, P], contiguous, moved and negated: a new array."""
        size, gather = self._items
        if size == len(self.gather):
            return flat ^ self.xor
        moved = flat.view(f"u{size}").take(gather, axis=1).view(np.uint8)
        moved ^= self.xor
        return moved

    @cached_property
    def inverse(self) -> "Fused":
        """What undoes it."""
        back = np.argsort(self.gather)
        return Fused(back, self.xor[back])

    @cached_property
    def _items(self) -> tuple[int, NDArray[np.intp]]:
        """(bytes per item, gather of items): the widest whose bytes stay together; all P of them if nothing moves."""
        length = len(self.gather)
        for size in (length, *ITEM_BYTES):
            first = self.gather[::size]
            together = np.repeat(first, size)[:length] + np.arange(length) % size
            if not length % size and not (first % size).any() and np.array_equal(together, self.gather):
                return size, first // size
        return 1, self.gather
