"""Fuzzes the reading of images: whatever the bytes are, a picture within the limit or one of three refusals."""

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app import images
from app.errors import InvalidRequest, UndecodableImage, UnsupportedImage

MAX_PIXELS = 2**14
READERS: tuple[Callable[[bytes, int], Image.Image | NDArray[Any]], ...]
READERS = (images.decode, images.pixels, images.codes, images.decode)
PIXELS = np.indices((12, 9, 3)).sum(0).astype(np.uint8) * 11


def _saved(kind: str, mode: str = "RGB", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def _seeds() -> list[bytes]:
    turned = Image.Exif()
    turned[0x0112] = 6
    jpegs = [_saved("JPEG"), _saved("JPEG", progressive=True), _saved("JPEG", "CMYK"), _saved("JPEG", exif=turned)]
    pngs = [_saved("PNG", mode) for mode in ("RGB", "RGBA", "P", "1", "I;16", "LA")] + [_saved("PNG", exif=turned)]
    webps = [_saved("WEBP"), _saved("WEBP", lossless=True), _saved("WEBP", "RGBA", exif=turned)]
    animated = [
        _saved(kind, save_all=True, append_images=[Image.new("RGB", (9, 12))], duration=9) for kind in ("PNG", "WEBP")
    ]
    return [bytes([how]) + file for how in (0, 1, 2, 4) for file in (*jpegs, *pngs, *webps, *animated)]


SEEDS = _seeds()


def feed(data: bytes) -> None:
    """The first byte says who reads the rest, and whether a PNG's checksums are put right before."""
    how, encoded = data[:1], data[1:]
    choice = how[0] if how else 0
    if choice & 4:
        encoded = _with_checksums(encoded)
    try:
        picture = READERS[choice & 3](encoded, MAX_PIXELS)
    except (InvalidRequest, UndecodableImage, UnsupportedImage):
        return
    if isinstance(picture, Image.Image):
        assert picture.mode == "RGB"
        assert picture.width * picture.height <= MAX_PIXELS
    else:
        assert picture.shape[0] * picture.shape[1] <= MAX_PIXELS
        assert picture.shape[2] == 3


def _with_checksums(png: bytes) -> bytes:
    """A PNG whose chunks all have the right checksum: few changed bytes would be looked at behind a wrong one."""
    at, parts = 8, [png[:8]]
    while at + 8 < len(png):
        length = min(int.from_bytes(png[at : at + 4]), len(png) - at - 8)
        named = png[at + 4 : at + 8 + length]
        parts.append(struct.pack(">I", length) + named + struct.pack(">I", zlib.crc32(named)))
        at += 12 + length
    return b"".join(parts)
