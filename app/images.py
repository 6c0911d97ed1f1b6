"""Untrusted bytes, or pixels that need no decoding, to a picture within limits on format and size.

Knows Pillow; knows no model and no HTTP.
"""

import io
import warnings
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.errors import InvalidRequest, UndecodableImage, UnsupportedImage
from models.data import Pixels, upright_rgb

FORMATS = ("JPEG", "PNG", "WEBP")
Sent = bytes | Pixels
"""An image as it arrives: an encoded file, or its pixels uint8 [H, W, 3]."""

Read = TypeVar("Read")


def decode(encoded: Sent, max_pixels: int) -> Image.Image:
    """The first frame of a JPEG, PNG or WebP, upright (EXIF) and in RGB; pixels are shown as they are.

    Raises:
        InvalidRequest: more than `max_pixels` pixels.
        UnsupportedImage: the bytes are of another format.
        UndecodableImage: they are damaged, or would unfold to more than `max_pixels` pixels.
    """
    if isinstance(encoded, np.ndarray):
        return Image.fromarray(_within(encoded, max_pixels))
    if not (encoded.startswith(b"\xff\xd8\xff") or _png(encoded) or _webp(encoded)):
        raise UnsupportedImage(f"send one of {', '.join(FORMATS)}")
    return _read(encoded, max_pixels, upright_rgb)


def pixels(encoded: Sent, max_pixels: int) -> Pixels:
    """The pixels uint8 [H, W, 3] of a PNG or lossless WebP exactly as they were stored: what a pixel key scrambled.

    Raises:
        InvalidRequest: pixels that need no decoding, and more than `max_pixels` of them.
        UnsupportedImage: another format, one that loses, or not RGB of 8 bits.
        UndecodableImage: damaged, or too many pixels.
    """
    if isinstance(encoded, np.ndarray):
        return _within(encoded, max_pixels)
    if not _png(encoded) and not (_webp(encoded) and encoded[12:16] != b"VP8 "):
        raise UnsupportedImage("an image that is encrypted pixel by pixel is sent as PNG or lossless WebP")
    return _read(encoded, max_pixels, _stored)


def codes(encoded: Sent, max_pixels: int) -> NDArray[np.uint16]:
    """The codes uint16 [H, W, 3] of a 16-bit grey PNG of H by 3·W: Pillow, like many, knows no RGB of 16 bits.

    Raises:
        UnsupportedImage: another format.
        UndecodableImage: damaged, or too many pixels.
    """
    if isinstance(encoded, np.ndarray) or not _png(encoded):
        raise UnsupportedImage("an image encrypted by `ffx` is sent as a grey PNG of 16 bits")
    return _read(encoded, max_pixels, _wide)


def _within(sent: Pixels, max_pixels: int) -> Pixels:
    if sent.shape[0] * sent.shape[1] > max_pixels:
        raise InvalidRequest(f"at most {max_pixels} pixels are accepted")
    return sent


def _stored(image: Image.Image) -> Pixels:
    if image.mode != "RGB":
        raise UnsupportedImage("an image that is encrypted pixel by pixel is RGB of 8 bits, without alpha or palette")
    return np.asarray(image, dtype=np.uint8)


def _wide(image: Image.Image) -> NDArray[np.uint16]:
    if not image.mode.startswith("I") or image.width % 3:
        raise UnsupportedImage("an image encrypted by `ffx` is a grey PNG of 16 bits, three values a pixel")
    return np.asarray(image, dtype=np.uint16).reshape(image.height, image.width // 3, 3)


def _read(encoded: bytes, max_pixels: int, convert: Callable[[Image.Image], Read]) -> Read:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own bomb warning starts where our limit has long refused
            with Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
                if image.width * image.height > max_pixels:
                    raise UndecodableImage(f"at most {max_pixels} pixels are accepted")
                return convert(image)
    except (UndecodableImage, UnsupportedImage):
        raise
    except Exception as error:  # a decoder fed with hostile bytes raises nearly anything
        raise UndecodableImage("the image is damaged") from error


def _png(encoded: bytes) -> bool:
    return encoded.startswith(b"\x89PNG\r\n\x1a\n")


def _webp(encoded: bytes) -> bool:
    return encoded[:4] == b"RIFF" and encoded[8:12] == b"WEBP"
