"""The FFX step: byte values become decimal codes of three digits where a mask says so.

Knows numbers, not images. The cipher is FFX (Bellare, Rogaway and Spies, 2010) as `pyffx.Integer(password, length=3)`
computes it, which the secret-key papers use: radix 10, ten rounds of an unbalanced Feistel network (one digit | two),
HMAC-SHA-1 as round function. A byte has 256 values, so that one table is all of it.
"""

import hmac
import struct
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sdb_client.derivation import TransformError
from sdb_client.steps import Mask, Step, checked_mask, frozen

VALUES, CODES = 256, 1000
ROUNDS = 10
PIECE = 2**16  # `take` makes an index of 8 bytes for every value; this many stay in the cache


def code_table(password: bytes) -> NDArray[np.uint16]:
    """The code of every byte value: uint16 [256], no two alike, each below 1000."""
    return np.array([_encrypt(password, value) for value in range(VALUES)], dtype=np.uint16)


def _encrypt(password: bytes, value: int) -> int:
    left, right = [value // 100], [value // 10 % 10, value % 10]
    for number in range(ROUNDS):
        pad = _round(password, number, right)
        left, right = right, [(digit + pad // 10**place) % 10 for place, digit in enumerate(left)]
    return 100 * left[0] + 10 * right[0] + right[1]


def _round(password: bytes, number: int, digits: list[int]) -> int:
    """HMAC-SHA-1 of the round's number, the digits and a counter that stays 0, as little-endian 32-bit words."""
    message = struct.pack(f"<{len(digits) + 2}I", number, *digits, 0)
    return int.from_bytes(hmac.digest(password, message, "sha1"))


@dataclass(frozen=True, eq=False)
class Feistel(Step):
    """FFX: b'[i] = table[b[i]] where mask[i], the same in every block. mask: bool [n]; table: integers [256], no two
    alike, each below 1000. What comes out is no longer an 8-bit image.
    """

    name = "ffx"
    mask: Mask = field(repr=False)
    table: NDArray[np.uint16] = field(repr=False)

    def __post_init__(self) -> None:
        """Raises TransformError: this is no mask, or no such table."""
        object.__setattr__(self, "mask", checked_mask(self.mask, 1))
        table = np.array(self.table)
        if table.shape != (VALUES,) or len(set(table.tolist()) & set(range(CODES))) != VALUES:
            raise TransformError(f"an ffx table has {VALUES} different codes below {CODES}")
        object.__setattr__(self, "table", frozen(table.astype(np.uint16)))

    @property
    def size(self) -> int:
        """n."""
        return len(self.mask)

    @property
    def peak(self) -> int:
        """The largest code."""
        return int(self.table.max())

    def encode(self, bands: NDArray[np.uint8]) -> NDArray[np.uint16]:
        """Codes of bands uint8 [R, M, W·C], each a row of blocks."""
        return _looked_up(self._encoding, bands + self._second_half(bands, VALUES))

    def decode(self, bands: NDArray[np.uint16]) -> NDArray[np.uint8]:
        """Values uint8 of bands of codes [R, M, W·C].

        Raises:
            TransformError: one of them is nothing that `encode` gives.
        """
        if (bands >= CODES).any():
            raise TransformError("the image holds a value that is no code")
        values = _looked_up(self._decoding, bands + self._second_half(bands, CODES))
        if (values >= VALUES).any():
            raise TransformError("the image holds a value that this key never gives")
        return values.astype(np.uint8)

    def _second_half(self, bands: NDArray[np.uint8 | np.uint16], offset: int) -> NDArray[np.uint16]:
        """`offset` [M, W·C] where the mask is set, 0 elsewhere: which half of a table a value is looked up in."""
        row = self.mask.reshape(bands.shape[-2], -1)
        return np.tile(row * np.uint16(offset), bands.shape[-1] // row.shape[1])

    @cached_property
    def _encoding(self) -> NDArray[np.uint16]:
        return np.concatenate([np.arange(VALUES, dtype=np.uint16), self.table])

    @cached_property
    def _decoding(self) -> NDArray[np.uint16]:
        """Two tables of `CODES` entries; VALUES, which no byte has, stands for a code that there is not."""
        values = np.full((2, CODES), VALUES, dtype=np.uint16)
        values[0, :VALUES] = values[1, self.table] = np.arange(VALUES)
        return values.reshape(-1)


def _looked_up(table: NDArray[np.uint16], entries: NDArray[np.uint16]) -> NDArray[np.uint16]:
    found = np.empty(entries.shape, dtype=table.dtype)
    into, flat = found.reshape(-1), entries.reshape(-1)
    for start in range(0, flat.size, PIECE):
        piece = slice(start, start + PIECE)
        np.take(table, flat[piece], out=into[piece], mode="clip")  # the faster mode with `out`; nothing is out of range
    return found
