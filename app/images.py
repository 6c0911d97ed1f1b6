"""Untrusted bytes, or pixels that need no decoding, to a picture within limits on format and size.

Knows two decoders; knows no model and no HTTP. Pillow judges what is an image. Plain JPEGs, which are most of what is
sent, go to libjpeg-turbo without it (simplejpeg): the same library with the same options gives the same pixels in a
tenth (32 by 32 pixels) to half (256 by 256) of the time. What is turned, has other colours, or is damaged is Pillow's.
"""

import io
import warnings
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from app.errors import InvalidRequest, Overloaded, TooManyPixels, UndecodableImage, UnsupportedImage
from app.segments import check_jpeg, check_png
from models.data import Pixels, upright_rgb

FORMATS = ("JPEG", "PNG", "WEBP")
JPEG, PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
APP1 = b"\xff\xe1"  # begins EXIF and XMP, either of which may turn a JPEG; never occurs in its compressed data
PACKED = (b"zTXt", b"iTXt", b"iCCP")  # chunks of a PNG that Pillow unfolds
PLAIN = {"YCbCr", "RGB"}
BYTES_A_PIXEL = 4  # as Pillow keeps one
AT_ONCE_PIXELS, AT_ONCE_BYTES = 64 * 64, 2**13
Sent = bytes | Pixels
"""An image as it arrives: an encoded file, or its pixels uint8 [H, W, 3]."""

Sendable = Sequence[Sent] | Pixels
"""The images of a request: each for itself, or pixels of one size in one array uint8 [N, H, W, 3]."""

Decoded = Image.Image | Pixels
"""An RGB picture, by whichever decoder: resizing wants Pillow's form, a model wants pixels uint8 [H, W, 3]."""

Read = TypeVar("Read")


def area(picture: Decoded) -> int:
    """How many pixels a picture has."""
    return picture.width * picture.height if isinstance(picture, Image.Image) else picture.shape[0] * picture.shape[1]


def at_once(encoded: Sent) -> bool:
    """Whether to decode it, if it has AT_ONCE_PIXELS at most, is sooner done than handed to another thread.

    That takes 50 to 150 µs; so many pixels take 16 µs as a JPEG and 100 µs as a PNG. By bytes, because few pixels may
    come in many scans of a progressive JPEG: a few milliseconds is the most that 8 KiB of them take. Not a PNG with
    packed texts or a colour profile, of which each kilobyte may unfold to a megabyte.
    """
    if isinstance(encoded, np.ndarray):
        return area(encoded) <= AT_ONCE_PIXELS
    if len(encoded) > AT_ONCE_BYTES:
        return False
    return encoded.startswith(JPEG) or (encoded.startswith(PNG) and not any(kind in encoded for kind in PACKED))


def decode(encoded: Sent, max_pixels: int) -> Decoded:
    """The first frame of a JPEG, PNG or WebP, upright (EXIF) and in RGB; pixels are shown as they are.

    Raises:
        InvalidRequest: more than `max_pixels` pixels.
        UnsupportedImage: the bytes are of another format.
        UndecodableImage: they are damaged, or would unfold in too many pieces; TooManyPixels is one.
    """
    if isinstance(encoded, np.ndarray):
        return _within(encoded, max_pixels)
    if encoded.startswith(JPEG):
        check_jpeg(encoded)
        plain = _plain_jpeg(encoded, max_pixels)
        return _read(encoded, max_pixels, upright_rgb) if plain is None else plain
    if not (encoded.startswith(PNG) or _webp(encoded)):
        raise UnsupportedImage(f"send one of {', '.join(FORMATS)}")
    return _read(encoded, max_pixels, upright_rgb)


def _plain_jpeg(encoded: bytes, max_pixels: int) -> Pixels | None:
    """The pixels of a JPEG that is sound, upright, and not grey or CMYK; None for any other."""
    if APP1 in encoded:
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(encoded)
        if colours not in PLAIN:
            return None
        if height * width > max_pixels:
            raise TooManyPixels(f"at most {max_pixels} pixels are accepted")
        pixels: Pixels = simplejpeg.decode_jpeg(encoded, "RGB")
    except (ValueError, KeyError):  # also what libjpeg only warns of, and kinds that simplejpeg has no name for
        return None
    return pixels


def pixels(encoded: Sent, max_pixels: int) -> Pixels:
    """The pixels uint8 [H, W, 3] of a PNG or lossless WebP exactly as they were stored: what a pixel key scrambled.

    Raises:
        InvalidRequest: pixels that need no decoding, and more than `max_pixels` of them.
        UnsupportedImage: another format, one that loses, or not RGB of 8 bits.
        UndecodableImage: damaged, or too many pixels.
    """
    if isinstance(encoded, np.ndarray):
        return _within(encoded, max_pixels)
    if not encoded.startswith(PNG) and not (_webp(encoded) and encoded[12:16] != b"VP8 "):
        raise UnsupportedImage("an image that is encrypted pixel by pixel is sent as PNG or lossless WebP")
    return _read(encoded, max_pixels, _stored)


def codes(encoded: Sent, max_pixels: int) -> NDArray[np.uint16]:
    """The codes uint16 [H, W, 3] of a 16-bit grey PNG of H by 3·W: Pillow, like many, knows no RGB of 16 bits.

    Raises:
        UnsupportedImage: another format.
        UndecodableImage: damaged, or too many pixels.
    """
    if isinstance(encoded, np.ndarray) or not encoded.startswith(PNG):
        raise UnsupportedImage("an image encrypted by `ffx` is sent as a grey PNG of 16 bits")
    return _read(encoded, max_pixels, _wide)


def _within(sent: Pixels, max_pixels: int) -> Pixels:
    if area(sent) > max_pixels:
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
    if encoded.startswith(PNG):
        check_png(encoded)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own bomb warning starts where our limit has long refused
            with Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
                if image.width * image.height > max_pixels:
                    raise TooManyPixels(f"at most {max_pixels} pixels are accepted")
                return convert(image)
    except (UndecodableImage, UnsupportedImage):
        raise
    except MemoryError:
        if not _room_for(max_pixels):
            raise Overloaded("the machine has no memory for the image") from None
        raise UndecodableImage("the image is damaged") from None
    except Exception as error:  # a decoder fed with hostile bytes raises nearly anything
        raise UndecodableImage("the image is damaged") from error


def _room_for(pixels: int) -> bool:
    """Whether the largest picture would find memory; where it would, one that finds none has lied about its size."""
    try:
        return len(bytearray(BYTES_A_PIXEL * pixels)) > 0
    except MemoryError:
        return False


def _webp(encoded: bytes) -> bool:
    return encoded[:4] == b"RIFF" and encoded[8:12] == b"WEBP"
