"""A 32-byte secret expanded into as many secret bytes as a purpose needs.

Knows hashing, not models. The published code draws its key image from a generator seeded with 0, so anybody can
draw it again; here every byte comes from SHAKE-256 (FIPS 202) and can be had only with the secret.
"""

import hashlib
import math

import numpy as np
import torch
from torch import Tensor

SECRET_BYTES = 32


def key_stream(secret: bytes, purpose: str, length: int) -> bytes:
    """The first `length` bytes of SHAKE-256("sdb/v1" ‖ len(purpose) as 2 bytes ‖ purpose ‖ secret).

    The length before the purpose keeps two purposes from ever sharing a stream.

    Raises:
        ValueError: the secret is not 32 bytes long.
    """
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"a model secret is {SECRET_BYTES} bytes, not {len(secret)}")
    name = purpose.encode()
    return hashlib.shake_256(b"sdb/v1" + len(name).to_bytes(2, "big") + name + secret).digest(length)


def fingerprint(secret: bytes) -> str:
    """A public name of a secret, 16 hexadecimal digits, by which a bundle recognises its own."""
    return key_stream(secret, "fingerprint", 8).hex()


def key_image(secret: bytes, shape: tuple[int, int, int]) -> Tensor:
    """The key κ: float32 [C, H, W] in [0, 1], each pixel one stream byte / 255, channel first, row by row."""
    channels, height, width = shape
    stream = key_stream(secret, f"key-image/{channels}x{height}x{width}", math.prod(shape))
    return torch.from_numpy(np.frombuffer(stream, dtype=np.uint8).reshape(shape).astype(np.float32) / 255)


def key_normal(secret: bytes, purpose: str, shape: tuple[int, ...]) -> Tensor:
    """Standard normal float32 numbers of `shape` by the Box-Muller transform of the stream's 32-bit words."""
    count = math.prod(shape)
    pairs = (count + 1) // 2
    words = np.frombuffer(key_stream(secret, purpose, 8 * pairs), dtype=">u4").astype(np.float64)
    radius = np.sqrt(-2 * np.log((words[:pairs] + 1) / 2**32))
    angle = 2 * np.pi * words[pairs:] / 2**32
    normal = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]
    return torch.from_numpy(normal.astype(np.float32).reshape(shape))
