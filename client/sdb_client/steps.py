"""The steps that an image transform is made of, each with its key in plain arrays.

Knows what a step does to the blocks of an image: arrays [N, n] of any dtype, N blocks of n = M · M · C values each,
blocks row by row, values in HWC order inside a block. Knows neither images nor where keys come from.
Source: AprilPyone and Kiya, arXiv 2010.00801 (SHF, NP); Qi et al., arXiv 2207.05366 (scrambled blocks).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from sdb_client.derivation import TransformError

Blocks = NDArray[Any]
Permutation = NDArray[np.intp]
Mask = NDArray[np.bool_]
KeyFor = Callable[[int], NDArray[Any]]


def fixed(key: NDArray[Any]) -> KeyFor:
    """A key for images of len(key) blocks and no others, for the steps whose key depends on their number."""

    def key_for(count: int) -> NDArray[Any]:
        if count != len(key):
            raise TransformError(f"this key is for {len(key)} blocks, not {count}")
        return key

    return key_for


@dataclass(frozen=True, eq=False)
class Step:
    """A step that does nothing: the others move entries (`permute`) or negate them (`negated`)."""

    name: ClassVar[str]
    everywhere_alike: ClassVar[bool] = True  # every block gets the same, however many there are

    @property
    def size(self) -> int | None:
        """The n that the key is for; None where only N decides it."""
        return None

    def permute(self, blocks: Blocks) -> Blocks:
        """Blocks [N, n] with their entries at the new places."""
        return blocks

    def negated(self, shape: tuple[int, ...]) -> Mask:
        """Which entries become 255 − v: bool, broadcastable to `shape` (N, n)."""
        del shape
        return np.zeros(1, dtype=np.bool_)


@dataclass(frozen=True, eq=False)
class Shuffle(Step):
    """SHF: b'[i] = b[permutation[i]], the same in every block. permutation: integers [n]."""

    name = "shf"
    permutation: Permutation = field(repr=False)

    def __post_init__(self) -> None:
        """Raises TransformError: this is no permutation."""
        object.__setattr__(self, "permutation", checked_permutations(self.permutation, 1))

    @property
    def size(self) -> int:
        """n."""
        return len(self.permutation)

    def permute(self, blocks: Blocks) -> Blocks:
        """Every block shuffled."""
        return blocks[:, self.permutation]


@dataclass(frozen=True, eq=False)
class Negative(Step):
    """NP: b'[i] = 255 − b[i] where mask[i], the same in every block. mask: bool [n]."""

    name = "np"
    mask: Mask = field(repr=False)

    def __post_init__(self) -> None:
        """Raises TransformError: this is no mask."""
        object.__setattr__(self, "mask", checked_mask(self.mask, 1))

    @property
    def size(self) -> int:
        """n."""
        return len(self.mask)

    def negated(self, shape: tuple[int, ...]) -> Mask:
        """The mask."""
        del shape
        return self.mask


@dataclass(frozen=True, eq=False)
class Scramble(Step):
    """Block p of the result is block key_for(N)[p] of the image. key_for(N): a permutation, integers [N]."""

    name = "scramble"
    everywhere_alike = False
    key_for: KeyFor = field(repr=False)

    def permute(self, blocks: Blocks) -> Blocks:
        """The blocks at their new places."""
        key = _fitting(checked_permutations(self.key_for(len(blocks)), 1), blocks.shape[:1])
        return np.take(blocks, key, axis=0)


@dataclass(frozen=True, eq=False)
class ShuffleEach(Step):
    """SHF with a permutation for each block position. key_for(N): permutations, integers [N, n]."""

    name = "shf-each"
    everywhere_alike = False
    key_for: KeyFor = field(repr=False)

    def permute(self, blocks: Blocks) -> Blocks:
        """Every block shuffled in a way of its own."""
        keys = _fitting(checked_permutations(self.key_for(len(blocks)), 2), blocks.shape)
        return np.take_along_axis(blocks, keys, axis=1)


@dataclass(frozen=True, eq=False)
class NegativeEach(Step):
    """NP with a mask for each block position. key_for(N): masks, bool [N, n]."""

    name = "np-each"
    everywhere_alike = False
    key_for: KeyFor = field(repr=False)

    def negated(self, shape: tuple[int, ...]) -> Mask:
        """All masks."""
        return _fitting(checked_mask(self.key_for(shape[0]), 2), shape)


def checked_permutations(key: NDArray[Any], dimensions: int) -> Permutation:
    """A private, read-only copy of a key whose last axis holds permutations.

    Raises:
        TransformError: it does not.
    """
    found = np.array(key)
    if found.ndim != dimensions or found.dtype.kind not in "iu":
        raise TransformError(f"a permutation is an integer array of {dimensions} dimension(s)")
    if not np.array_equal(np.sort(found, axis=-1), np.broadcast_to(np.arange(found.shape[-1]), found.shape)):
        raise TransformError("a permutation names every entry once")
    return frozen(found.astype(np.intp))


def checked_mask(key: NDArray[Any], dimensions: int) -> Mask:
    """A private, read-only copy of a key of bits.

    Raises:
        TransformError: it is none.
    """
    found = np.array(key)
    if found.ndim != dimensions or found.dtype != np.bool_:
        raise TransformError(f"a mask is a bool array of {dimensions} dimension(s)")
    return frozen(found)


def frozen(key: NDArray[Any]) -> NDArray[Any]:
    """The array itself, read-only from now on."""
    key.setflags(write=False)
    return key


def _fitting(key: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    if key.shape != shape:
        raise TransformError(f"a key of shape {key.shape} does not fit blocks of shape {shape}")
    return key
