"""The keys of the transform steps, all from one secret and each bound to what it is for.

Knows hashing; knows no image. HKDF-SHA-256 (RFC 5869) turns the secret and a line that names the key, the model and
the step into a seed, SHAKE-256 (FIPS 202) the seed into 32-bit words, and the shuffle of Fisher and Yates the words
into a permutation: the same one with every version of every library.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

SECRET_BYTES = SEED_BYTES = 32
FIRST_BYTES = 4096  # of a stream; a multiple of a word
WORDS = 2**32


class TransformError(ValueError):
    """A transform that there is not, or an image or a key that does not suit it; the message says why."""


@dataclass(frozen=True)
class KeySource:
    """The keys of one transform; `block` is its M, `channels` its C, n = M · M · C.

    A step's name (SHF, NP, …) and, where its key depends on the number N of blocks, that number are part of what the
    key is derived from. Several permutations of one key follow each other in the same stream.

    Raises:
        TransformError: the secret is not 32 bytes, or `kid` or `model` is empty, holds "|" or a control character, so
            that two uses could share a key.
    """

    secret: bytes = field(repr=False)
    kid: str
    model: str
    block: int
    channels: int

    def __post_init__(self) -> None:
        if len(self.secret) != SECRET_BYTES:
            raise TransformError(f"an image secret is {SECRET_BYTES} bytes, not {len(self.secret)}")
        for name in (self.kid, self.model):
            if not name or "|" in name or not name.isprintable():
                raise TransformError("the names of an image key and a model are printable and without '|'")

    def seed(self, step: str, count: int | None = None) -> bytes:
        """32 bytes for `step`, and for images of `count` blocks where it depends on that."""
        info = f"imgkey/v1|kid={self.kid}|model={self.model}|xf={step}|M={self.block}|C={self.channels}"
        info += "" if count is None else f"|N={count}"
        return HKDF(SHA256(), SEED_BYTES, salt=bytes(SHA256.digest_size), info=info.encode()).derive(self.secret)

    def permutation(self, step: str) -> NDArray[np.intp]:
        """A permutation [n] for every block."""
        return _shuffled(words(self.seed(step)), self._size)

    def mask(self, step: str) -> NDArray[np.bool_]:
        """A mask bool [n] for every block; the first half of a permutation says which half of it is set."""
        return _half_set(self.permutation(step))

    def scramble(self, step: str, count: int) -> NDArray[np.intp]:
        """A permutation [N] of the blocks themselves."""
        return _shuffled(words(self.seed(step, count)), count)

    def permutations(self, step: str, count: int) -> NDArray[np.intp]:
        """A permutation for each of N blocks: [N, n]."""
        stream = words(self.seed(step, count))
        return np.stack([_shuffled(stream, self._size) for _ in range(count)])

    def masks(self, step: str, count: int) -> NDArray[np.bool_]:
        """A mask for each of N blocks: bool [N, n]."""
        return _half_set(self.permutations(step, count))

    @property
    def _size(self) -> int:
        return self.block * self.block * self.channels


def words(seed: bytes) -> Iterator[int]:
    """SHAKE-256(seed) as big-endian 32-bit words, without end."""
    start, end = 0, FIRST_BYTES
    while True:
        stream = hashlib.shake_256(seed).digest(end)  # begins with what a shorter digest is
        yield from np.frombuffer(stream[start:], dtype=">u4").tolist()
        start, end = end, 2 * end


def uniform(stream: Iterator[int], bound: int) -> int:
    """A number below `bound` from the first of the words that does not favour the small numbers."""
    limit = WORDS - WORDS % bound
    return next(word for word in stream if word < limit) % bound


def _shuffled(stream: Iterator[int], size: int) -> NDArray[np.intp]:
    """Fisher and Yates' shuffle of 0 … size − 1, from the last entry down."""
    entries = list(range(size))
    for last in range(size - 1, 0, -1):
        other = uniform(stream, last + 1)
        entries[last], entries[other] = entries[other], entries[last]
    return np.array(entries, dtype=np.intp)


def _half_set(permutations: NDArray[np.intp]) -> NDArray[np.bool_]:
    masks = np.zeros(permutations.shape, dtype=np.bool_)
    np.put_along_axis(masks, permutations[..., : permutations.shape[-1] // 2], True, axis=-1)
    return masks
