"""The mark of one key: a secret, slow, small function of the image that is added to what the key holder is told.

Knows pixels, logits and one key's id; knows neither the network nor who asks. A student learns the sum of the teacher
and the mark, and repeats both: `detection` reads the second part. Tones of the image, cos(2πf·vᵀw(x) + θ), follow
Charette et al. (AAAI 2022, arXiv 2203.02777, §3.2). Ours is that there are several, each with a secret set of classes,
on the logits of all classes but the top-1; and that secret groups of classes do as tones do, by the top-1, since what
goes with the class is what a student learns first.
"""

from dataclasses import dataclass, field

import numpy as np
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from sdb_client.fitting import Pixels

from models.key_stream import SECRET_BYTES, key_normal, key_stream
from models.tracing.waves import WAVES, Floats, waves

TONES = GROUPS = 16
FREQUENCIES = (0.15, 0.35)  # waves per standard deviation of vᵀw: slower drown in habits, faster are not learned
MARGIN = 0.05  # no class comes nearer to the top-1 than this, unless it is there already
DEFAULT_STRENGTH = 0.5
FEWEST_CLASSES = 3  # of two, the one that is not the top-1 cannot be marked against another


@dataclass(frozen=True, eq=False)
class Mark:
    """The tones of one key; equal for equal (secret, key id, number of classes), whatever the size of the images."""

    projection: Floats = field(repr=False)  # [WAVES, TONES], radians
    phases: Floats = field(repr=False)  # [TONES], radians
    groups: Floats = field(repr=False)  # ±1 [K, GROUPS]: which of two groups each class belongs to, as the top-1
    signs: Floats = field(repr=False)  # ±1 [TONES + GROUPS, K]: which classes a tone or group lifts, which it lowers

    @classmethod
    def derive(cls, secret: bytes, key_id: str, classes: int) -> "Mark":
        """The mark of `key_id` under a 32-byte owner secret: HKDF-SHA-256 (RFC 5869), bound to the key and to K.

        Raises:
            ValueError: the secret is not 32 bytes long, or there are fewer than three classes: of two, the one that is
                not the top-1 cannot be marked against another.
        """
        if len(secret) != SECRET_BYTES:
            raise ValueError(f"a tracing secret is {SECRET_BYTES} bytes, not {len(secret)}")
        if classes < FEWEST_CLASSES:
            raise ValueError(f"a mark needs at least {FEWEST_CLASSES} classes")
        info = f"sdb/trace/v1|classes={classes}|key={key_id}".encode()
        seed = HKDF(SHA256(), SECRET_BYTES, salt=None, info=info).derive(secret)
        directions = key_normal(seed, "trace/directions", (WAVES, TONES)).numpy()
        least, most = FREQUENCIES
        frequencies = least + (most - least) * _uniform(seed, "trace/frequencies")
        return cls(
            directions / np.linalg.norm(directions, axis=0) * (2 * np.pi * frequencies),
            2 * np.pi * _uniform(seed, "trace/phases"),
            _signs(seed, "trace/groups", (classes, GROUPS)),
            _signs(seed, "trace/signs", (TONES + GROUPS, classes)),
        )

    def tones(self, low: Floats) -> Floats:
        """√2·cos(2πf·vᵀw + θ) of the `waves` [N, WAVES] of images: float32 [N, TONES], of mean square about 1."""
        phases: Floats = low @ self.projection
        phases += self.phases
        tones = np.cos(phases, out=phases)
        tones *= np.float32(np.sqrt(2))
        return tones

    def apply(self, pixels: Pixels, logits: Floats, strength: float) -> Floats:
        """Marked logits float32 [N, K] for logits [N, K] of pixels uint8 [N, H, W, 3]; row by row, always alike.

        `strength` is the standard deviation, in units of a logit, of what is added to each class but the top-1, which
        keeps its logit and stays the top-1; 0 adds nothing. No entry moves by more than seven times that.
        """
        if not strength or not len(logits):
            return logits
        rows, top = np.arange(len(logits)), logits.argmax(axis=1)
        peak = logits[rows, top]
        carriers = np.concatenate([self.tones(waves(pixels)), self.groups[top]], axis=1)
        marked: Floats = carriers @ (self.signs * np.float32(strength / np.sqrt(TONES + GROUPS)))
        marked += logits
        np.minimum(marked, np.maximum(logits, (peak - np.float32(MARGIN))[:, None]), out=marked)
        marked[rows, top] = peak
        return marked


def _uniform(seed: bytes, purpose: str) -> Floats:
    """TONES numbers in [0, 1), of 24 bits so that float32 holds them exactly."""
    words = np.frombuffer(key_stream(seed, purpose, 4 * TONES), dtype=">u4")
    return (words >> 8).astype(np.float32) / np.float32(2**24)


def _signs(seed: bytes, purpose: str, shape: tuple[int, int]) -> Floats:
    bits = np.frombuffer(key_stream(seed, purpose, shape[0] * shape[1]), dtype=np.uint8) & 1
    return (2 * bits.astype(np.float32) - 1).reshape(shape)
