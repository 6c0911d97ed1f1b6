"""Keys of a lock as an attacker handles them: drawn, changed entry by entry, compared with each other.

Knows the scheme, which is public: steps, block and image size. No function here needs the right key; who has it may
hand it in.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sdb_client.transforms import (
    Feistel,
    Negative,
    NegativeEach,
    Scramble,
    Shuffle,
    ShuffleEach,
    Step,
    Transform,
    fixed,
)

from models.training.negatives import CODES, entries, near

Entries = NDArray[Any]
VALUES = 256  # an FFX table has a number for each byte


@dataclass(frozen=True)
class Scheme:
    """What everybody knows of a lock: its steps in order, its block size and the shape (C, H, W) of its images."""

    steps: tuple[str, ...]
    block: int
    shape: tuple[int, int, int]

    @property
    def size(self) -> int:
        """n: the values of a block."""
        return self.block * self.block * self.shape[0]

    @property
    def blocks(self) -> int:
        """N: the blocks of an image."""
        return (self.shape[1] // self.block) * (self.shape[2] // self.block)

    def key(self, steps: Sequence[Step]) -> Transform:
        """The transform of these steps."""
        return Transform(steps, self.block, self.shape[0])


def random_key(scheme: Scheme, draw: np.random.Generator) -> Transform:
    """A key of the scheme, as likely as any other."""
    return scheme.key([DRAWN[name](scheme, draw) for name in scheme.steps])


def near_key(right: Transform, scheme: Scheme, step: str, wrong: int, draw: np.random.Generator) -> Transform:
    """The right key but for `wrong` ≥ 2 entries of one step; see `negatives.near`."""
    steps = [near(known, scheme.blocks, wrong, draw) if known.name == step else known for known in right.steps]
    return scheme.key(steps)


def recovered(found: Transform, right: Transform, scheme: Scheme) -> dict[str, float]:
    """The share in [0, 1] of each step's entries that two keys of one scheme have in common, by the step's name.

    A random permutation has one of its entries right, a random mask half of them. Of an FFX step the mask is compared.
    """
    pairs, blocks = zip(found.steps, right.steps, strict=True), scheme.blocks
    return {one.name: float((entries(one, blocks) == entries(other, blocks)).mean()) for one, other in pairs}


def _orders(shape: tuple[int, ...], draw: np.random.Generator) -> Entries:
    return draw.permuted(np.broadcast_to(np.arange(shape[-1]), shape), axis=-1)


def _masks(shape: tuple[int, ...], draw: np.random.Generator) -> Entries:
    """Half of the entries set, as in every key that a secret gives."""
    return _orders(shape, draw) < shape[-1] // 2


def _table(draw: np.random.Generator) -> Entries:
    """Without the password, one table is as likely as another."""
    return draw.permutation(CODES)[:VALUES].astype(np.uint16)


DRAWN: dict[str, Callable[[Scheme, np.random.Generator], Step]] = {
    "shf": lambda scheme, draw: Shuffle(_orders((scheme.size,), draw)),
    "np": lambda scheme, draw: Negative(_masks((scheme.size,), draw)),
    "ffx": lambda scheme, draw: Feistel(_masks((scheme.size,), draw), _table(draw)),
    "scramble": lambda scheme, draw: Scramble(fixed(_orders((scheme.blocks,), draw))),
    "shf-each": lambda scheme, draw: ShuffleEach(fixed(_orders((scheme.blocks, scheme.size), draw))),
    "np-each": lambda scheme, draw: NegativeEach(fixed(_masks((scheme.blocks, scheme.size), draw))),
}
