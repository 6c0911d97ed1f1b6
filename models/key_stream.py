"""A 32-byte secret expanded into as many secret bytes as a purpose needs.

Knows hashing, not models. The published code draws its key image from a generator seeded with 0, so anybody can
draw it again; here every byte comes from SHAKE-256 (FIPS 202) and can be had only with the secret.
"""

import hashlib
import math

import numpy as np
import torch
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from torch import Tensor

SECRET_BYTES = 32
TILE = 6


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


def release_secret(secret: bytes, deployment: bytes, model: str) -> bytes:
    """32 bytes for the release stage of one model on one deployment: HKDF-SHA-256 (RFC 5869), salted by the latter."""
    derivation = HKDF(
        algorithm=SHA256(), length=SECRET_BYTES, salt=deployment or None, info=f"sdb/release/{model}".encode()
    )
    return derivation.derive(secret)


def lock_secret(secret: bytes) -> bytes:
    """The 32-byte lock key of a model, by HKDF-SHA-256 (RFC 5869): what a client that transforms images itself holds.

    It cannot be traced back to the secret, so whoever has it knows nothing of the box's κ or of the release stage.

    Raises:
        ValueError: the secret is not 32 bytes long.
    """
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"a model secret is {SECRET_BYTES} bytes, not {len(secret)}")
    return HKDF(algorithm=SHA256(), length=SECRET_BYTES, salt=None, info=b"sdb/lock").derive(secret)


def key_image(secret: bytes, shape: tuple[int, int, int]) -> Tensor:
    """The key κ: float32 [C, H, W] of zeros and ones, a secret tile of C · TILE · TILE bits laid side by side.

    A convolutional network looks alike at every place: it can tell one texture from another, but hardly one field of
    noise from another, so that a κ of independent pixels unlocks no better than any other noise (docs/experiments.md).
    The bits are the lowest ones of the stream's bytes, channel first, row by row: 108 of them for three channels.
    """
    channels, height, width = shape
    stream = key_stream(secret, f"key-image/{channels}x{height}x{width}", channels * TILE * TILE)
    bits = np.frombuffer(stream, dtype=np.uint8).reshape(channels, TILE, TILE) & 1
    return tiled(torch.from_numpy(bits.astype(np.float32)), height, width)


def tiled(tile: Tensor, height: int, width: int) -> Tensor:
    """A tile [..., TILE, TILE] laid side by side until it covers [..., height, width]."""
    down, across = -(-height // TILE), -(-width // TILE)
    return tile.repeat(*[1] * (tile.dim() - 2), down, across)[..., :height, :width].contiguous()


def key_normal(secret: bytes, purpose: str, shape: tuple[int, ...]) -> Tensor:
    """Standard normal float32 numbers of `shape` by the Box-Muller transform of the stream's 32-bit words."""
    count = math.prod(shape)
    pairs = (count + 1) // 2
    words = np.frombuffer(key_stream(secret, purpose, 8 * pairs), dtype=">u4").astype(np.float64)
    radius = np.sqrt(-2 * np.log((words[:pairs] + 1) / 2**32))
    angle = 2 * np.pi * words[pairs:] / 2**32
    normal = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]
    return torch.from_numpy(normal.astype(np.float32).reshape(shape))
