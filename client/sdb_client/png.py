"""Pixels as a PNG file (RFC 2083), so that callers need no imaging library to send an array.

Writes grey and RGB of 8 or 16 bits; reads nothing.
"""

import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, RGB = 0, 2
SUB = 1  # the filter that takes from each byte the one a pixel before it: cheap, and photographs pack better
LEVEL = 1  # of zlib: a request waits for it


def png(pixels: NDArray[Any]) -> bytes:
    """A PNG file of pixels [H, W] (grey) or [H, W, 3] (RGB), uint8 or uint16.

    Raises:
        ValueError: another dtype or shape.
    """
    if pixels.dtype not in {np.dtype(np.uint8), np.dtype(np.uint16)}:
        raise ValueError(f"pixels are uint8 or uint16, not {pixels.dtype}")
    if not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)) or 0 in pixels.shape:
        raise ValueError(f"pixels are [H, W] or [H, W, 3], not {list(pixels.shape)}")
    height, width = pixels.shape[:2]
    depth, step = 8 * pixels.itemsize, pixels.itemsize * (3 if pixels.ndim == 3 else 1)
    big_endian = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder(">"))
    rows = big_endian.view(np.uint8).reshape(height, width * step)
    filtered = np.empty((height, 1 + width * step), np.uint8)
    filtered[:, 0] = SUB
    filtered[:, 1 : 1 + step] = rows[:, :step]
    np.subtract(rows[:, step:], rows[:, :-step], out=filtered[:, 1 + step :])
    header = struct.pack(">IIBBBBB", width, height, depth, RGB if pixels.ndim == 3 else GREY, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(filtered.data, LEVEL)), (b"IEND", b""))
    return SIGNATURE + b"".join(_chunk(kind, content) for kind, content in parts)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(content, zlib.crc32(kind)))
