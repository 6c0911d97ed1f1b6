"""Attacks on the pixel transforms by somebody who knows the scheme and the block size, but no key.

Each takes what its attacker sees (an oracle that encrypts, a pair, or one encrypted photo) and gives the key he
concludes. Li et al., Signal Process. Image Commun. 23 (2008) 212–223, say how few images suffice against any cipher
that only permutes. Here one does, because every block is encrypted alike.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sdb_client.transforms import Feistel, Negative, NegativeEach, Shuffle, ShuffleEach, fixed

Pixels = NDArray[np.uint8]
Encrypt = Callable[[Pixels], NDArray[Any]]
CHANNELS = 3


def to_blocks(image: NDArray[Any], block: int) -> NDArray[Any]:
    """An image [H, W, 3] as blocks [N, n], row by row, HWC inside a block."""
    height, width, _ = image.shape
    grid = image.reshape(height // block, block, width // block, block, CHANNELS)
    return grid.transpose(0, 2, 1, 3, 4).reshape(-1, block * block * CHANNELS)


def from_blocks(blocks: NDArray[Any], across: int, block: int) -> Pixels:
    """The image uint8 [H, W, 3] of blocks [N, n], `across` of them side by side."""
    grid = blocks.astype(np.uint8).reshape(-1, across, block, block, CHANNELS)
    return grid.transpose(0, 2, 1, 3, 4).reshape(-1, across * block, CHANNELS)


def shuffle_from_chosen_plaintext(encrypt: Encrypt, block: int) -> Shuffle:
    """One image of two blocks that number the places: the left one has the low digits, base 256."""
    high, low = np.divmod(np.arange(block * block * CHANNELS), 256)
    seen = to_blocks(encrypt(from_blocks(np.stack([low, high]), 2, block)), block).astype(int)
    return Shuffle(seen[0] + 256 * seen[1])


def negative_from_chosen_plaintext(encrypt: Encrypt, block: int) -> Negative:
    """One black block."""
    return Negative(encrypt(np.zeros((block, block, CHANNELS), dtype=np.uint8)).reshape(-1) > 127)


def feistel_from_chosen_plaintext(encrypt: Encrypt, block: int) -> Feistel:
    """One image of 256 blocks, each of one value throughout."""
    values = np.repeat(np.arange(256), block * block * CHANNELS).reshape(256, -1)
    seen = to_blocks(encrypt(from_blocks(values, 16, block)), block)
    mask = (seen != values).any(0)
    return Feistel(mask, seen[:, mask.argmax()])


def shuffle_each_from_chosen_plaintext(encrypt: Encrypt, block: int, count: int = 9) -> ShuffleEach:
    """Two images of `count` blocks, one for each digit: every block answers for itself."""
    digits = [np.tile(digit, (count, 1)) for digit in np.divmod(np.arange(block * block * CHANNELS), 256)]
    high, low = (to_blocks(encrypt(from_blocks(digit, count, block)), block).astype(int) for digit in digits)
    return ShuffleEach(fixed(low + 256 * high))


def negative_each_from_chosen_plaintext(encrypt: Encrypt, block: int, count: int = 9) -> NegativeEach:
    """One black image of `count` blocks."""
    black = np.zeros((block, count * block, CHANNELS), dtype=np.uint8)
    return NegativeEach(fixed(to_blocks(encrypt(black), block) > 127))


def shuffle_from_known_plaintext(plain: Pixels, encrypted: Pixels, block: int) -> Shuffle:
    """A place holds the same values before and after, over all blocks: sorted by them, both sides list it alike."""
    before, after = np.lexsort(to_blocks(plain, block)), np.lexsort(to_blocks(encrypted, block))
    permutation = np.empty_like(before)
    permutation[after] = before
    return Shuffle(permutation)


def negative_from_ciphertext(encrypted: Pixels, block: int) -> Negative:
    """Close values rise and fall together, but against those that are negated: the leading eigenvector of their
    correlation has the mask, or its complement, as its signs.
    """
    correlation = np.corrcoef(to_blocks(encrypted, block).T)
    return Negative(np.linalg.eigh(correlation).eigenvectors[:, -1] < 0)
