"""Untrusted bytes to an RGB picture, within limits on format and pixels.

Knows Pillow; knows no model and no HTTP.
"""

import io
import warnings

from PIL import Image

from app.errors import UndecodableImage, UnsupportedImage
from models.data import upright_rgb

FORMATS = ("JPEG", "PNG", "WEBP")


def decode(encoded: bytes, max_pixels: int) -> Image.Image:
    """The first frame of a JPEG, PNG or WebP, upright (EXIF) and in RGB.

    Raises:
        UnsupportedImage: the bytes are of another format.
        UndecodableImage: they are damaged, or would unfold to more than `max_pixels` pixels.
    """
    if not _known(encoded):
        raise UnsupportedImage(f"send one of {', '.join(FORMATS)}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own bomb warning starts where our limit has long refused
            with Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
                if image.width * image.height > max_pixels:
                    raise UndecodableImage(f"at most {max_pixels} pixels are accepted")
                return upright_rgb(image)
    except UndecodableImage:
        raise
    except Exception as error:  # a decoder fed with hostile bytes raises nearly anything
        raise UndecodableImage("the image is damaged") from error


def _known(encoded: bytes) -> bool:
    return encoded.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")) or (
        encoded[:4] == b"RIFF" and encoded[8:12] == b"WEBP"
    )
