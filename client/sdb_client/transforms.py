"""The pixel transforms of the secret-key papers: learnable encryption of an image, block by block, and its inverse.

Knows images as arrays uint8 [..., H, W, C]; knows no file format, no model and no server. These transforms keep a
*model* from whoever lacks the key. They do not keep an *image* secret: one known pair gives the key away
(tests/client/test_cryptanalysis.py). For that there is `sdb_client.sealed`.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdb_client.derivation import KeySource, TransformError
from sdb_client.feistel import Feistel, code_table
from sdb_client.fusion import Fused, check_size, fuse
from sdb_client.steps import Negative, NegativeEach, Scramble, Shuffle, ShuffleEach, Step, fixed

__all__ = [
    "BLOCKS",
    "STEPS",
    "Feistel",
    "Negative",
    "NegativeEach",
    "Scramble",
    "Shuffle",
    "ShuffleEach",
    "Step",
    "Transform",
    "TransformError",
    "fixed",
]

BLOCKS = (2, 4, 8, 16)
SIZES_KEPT = 4
STRIP = 512  # pixels, a multiple of every block: an image two pixels high may be millions wide, an index may not

DERIVED: dict[str, Callable[[KeySource], Step]] = {
    "shf": lambda key: Shuffle(key.permutation("SHF")),
    "np": lambda key: Negative(key.mask("NP")),
    "ffx": lambda key: Feistel(key.mask("FFX"), code_table(key.seed("FFX-PASSWORD"))),
    "scramble": lambda key: Scramble(partial(key.scramble, "SCR")),
    "shf-each": lambda key: ShuffleEach(partial(key.permutations, "SHFE")),
    "np-each": lambda key: NegativeEach(partial(key.masks, "NPE")),
}
STEPS = tuple(DERIVED)


class Transform:
    """Steps applied in order to images uint8 [..., H, W, C] whose H and W are multiples of `block`.

    A step may occur once, and `ffx` only as the last one, because after it values are no longer bytes.

    Raises:
        TransformError: steps, block or channels that do not go together.
    """

    def __init__(self, steps: Sequence[Step], block: int, channels: int = 3) -> None:
        self.steps, self.block, self.channels = tuple(steps), block, channels
        _check_scheme([step.name for step in steps], block, channels)
        size = block * block * channels
        for step in steps:
            if step.size not in {None, size}:
                raise TransformError(f"this {step.name} key is for blocks of {step.size} values, not {size}")
        self._feistel = next((step for step in steps if isinstance(step, Feistel)), None)
        self._everywhere_alike = all(step.everywhere_alike for step in steps)
        self._fuse = lru_cache(SIZES_KEPT)(partial(fuse, self.steps, block, channels))

    @classmethod
    def from_secret(
        cls, secret: bytes, *, kid: str, model: str, steps: Sequence[str], block: int, channels: int = 3
    ) -> "Transform":
        """The transform whose keys a 32-byte secret gives for this `kid` and `model`; steps are names of `STEPS`.

        Raises:
            TransformError: an unknown or repeated step, ffx before another, a block size not in `BLOCKS`, a secret of
                another length, or a `kid` or `model` that is empty, holds "|" or a control character.
        """
        _check_scheme(steps, block, channels)
        key = KeySource(secret, kid, model, block, channels)
        return cls([DERIVED[step](key) for step in steps], block, channels)

    def __repr__(self) -> str:
        """The scheme; never a key."""
        return f"Transform({'+'.join(step.name for step in self.steps)}, block={self.block}, channels={self.channels})"

    @property
    def peak(self) -> int:
        """The largest value that `apply` may give: 255, or the largest code in the FFX table."""
        return 255 if self._feistel is None else self._feistel.peak

    def apply(self, images: NDArray[np.uint8]) -> NDArray[Any]:
        """Transformed images: uint8 of the same shape, or uint16 if the last step is ffx.

        Raises:
            TransformError: another dtype or number of channels, or a size that the block or a key does not fit.
        """
        self._check_images(images, np.uint8)
        return self._in_strips(self._apply, images)

    def invert(self, images: NDArray[Any]) -> NDArray[np.uint8]:
        """The images uint8 whose transform `images` is: uint8, or uint16 if the last step is ffx.

        Raises:
            TransformError: as `apply`, or a value that this key's ffx step never gives.
        """
        self._check_images(images, np.uint8 if self._feistel is None else np.uint16)
        return self._in_strips(self._invert, images)

    def fused(self, height: int, width: int) -> tuple[NDArray[np.intp], NDArray[np.uint8]]:
        """(gather intp [H·W·C], xor uint8 [H·W·C]) for images of one size: apply == flat[gather] ^ xor.

        Raises:
            TransformError: there is an ffx step, or a size that the block or a key does not fit.
        """
        if self._feistel is not None:
            raise TransformError("an ffx step is no permutation and no negation")
        found = self._fuse(height, width)
        return found.gather.copy(), found.xor.copy()

    def _check_images(self, images: NDArray[Any], dtype: type) -> None:
        if images.dtype != dtype:
            raise TransformError(f"these images are {np.dtype(dtype)}, not {images.dtype}")
        if images.ndim < 3 or images.shape[-1] != self.channels:
            raise TransformError(f"images are [..., H, W, {self.channels}], not {list(images.shape)}")
        height, width = images.shape[-3:-1]
        check_size(height, width, self.block)

    def _in_strips(self, work: Callable[[NDArray[Any]], NDArray[Any]], images: NDArray[Any]) -> NDArray[Any]:
        width = images.shape[-2]
        if width <= STRIP or not self._everywhere_alike:
            return work(images)
        return np.concatenate([work(images[..., left : left + STRIP, :]) for left in range(0, width, STRIP)], axis=-2)

    def _apply(self, images: NDArray[np.uint8]) -> NDArray[Any]:
        fused = self._fused_for(images)
        moved = fused(np.ascontiguousarray(images).reshape(-1, len(fused.gather)))
        if self._feistel is None:
            return moved.reshape(images.shape)
        return self._feistel.encode(self._bands(moved, images)).reshape(images.shape)

    def _invert(self, images: NDArray[Any]) -> NDArray[np.uint8]:
        back = self._fused_for(images).inverse
        values = images if self._feistel is None else self._feistel.decode(self._bands(images, images))
        return back(np.ascontiguousarray(values).reshape(-1, len(back.gather))).reshape(images.shape)

    def _fused_for(self, images: NDArray[Any]) -> Fused:
        """For one row of blocks where all are alike: so short an index stays in the processor's nearest cache."""
        height, width = images.shape[-3:-1]
        return self._fuse(self.block if self._everywhere_alike else height, width)

    def _bands(self, values: NDArray[Any], images: NDArray[Any]) -> NDArray[Any]:
        """The values of the images as rows of blocks: [R, M, W·C]."""
        return values.reshape(-1, self.block, images.shape[-2] * self.channels)


def _check_scheme(names: Sequence[str], block: int, channels: int) -> None:
    for name in names:
        if name not in STEPS:
            raise TransformError(f"no step is called {name!r}; there are {', '.join(STEPS)}")
    if not names or len(set(names)) != len(names) or "ffx" in names[:-1]:
        raise TransformError("a transform has at least one step, none of them twice, and ffx only as the last one")
    if block not in BLOCKS:
        raise TransformError(f"a block is {', '.join(map(str, BLOCKS))} pixels wide, not {block}")
    if channels < 1:
        raise TransformError("an image has at least one channel")
