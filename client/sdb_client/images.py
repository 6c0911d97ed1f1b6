"""What callers have as an image, as the bytes of an image file; or, before it is encrypted, as pixels.

Knows files, arrays and PIL's images; needs PIL only where there is one, or to read the pixels of a file.
"""

import io
from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sdb_client.errors import InvalidImage
from sdb_client.png import png

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

Image: TypeAlias = "bytes | bytearray | memoryview | str | PathLike[str] | NDArray[np.uint8] | Picture"
"""The bytes of an image file, the path of one, pixels uint8 [H, W, 3] (RGB) or [H, W] (grey), or a PIL image."""
Images: TypeAlias = "Image | Iterable[Image]"
"""One image or several; pixels uint8 [N, H, W, 3] are several."""


def several(images: Images) -> list[Image]:
    """The images as a list, whether it is one or many."""
    if isinstance(images, np.ndarray):
        return list(images) if images.ndim == 4 else [images]
    if isinstance(images, bytes | bytearray | memoryview | str | PathLike) or not isinstance(images, Iterable):
        return [images]
    return list(images)


def encoded(image: Image) -> bytes:
    """The bytes of an image file: those given, those of the file named, or a PNG of what the server would see of it.

    Raises:
        InvalidImage: it is no image, or cannot be read.
    """
    match image:
        case bytes():
            return image
        case bytearray() | memoryview():
            return bytes(image)
        case str() | PathLike():
            return _file(image)
        case np.ndarray():
            return _png(image)
        case _ if hasattr(image, "getexif"):  # PIL's, which nobody else needs to have
            return png(_upright(image))
    raise InvalidImage(f"an image is bytes, a path, a uint8 array or a PIL image, not {type(image).__name__}")


def pixels(image: Image) -> NDArray[np.uint8]:
    """The pixels uint8 [H, W, 3] that the server would see of an image: upright, in RGB.

    Raises:
        InvalidImage: it cannot be read; of a file's bytes, also where PIL is not installed.
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise InvalidImage(f"pixels are uint8 [H, W, 3], not {image.dtype} {list(image.shape)}")
        return image
    return _upright(encoded(image) if isinstance(image, bytearray | memoryview | str | PathLike) else image)


def _file(path: str | PathLike[str]) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InvalidImage(f"{path} cannot be read: {error.strerror}") from error


def _png(array: NDArray[np.uint8]) -> bytes:
    if array.dtype != np.uint8:
        raise InvalidImage(f"pixels are uint8, not {array.dtype}")
    try:
        return png(array)
    except ValueError as error:
        raise InvalidImage(str(error)) from error


def _upright(image: "bytes | Picture") -> NDArray[np.uint8]:
    try:
        from PIL import Image as Pillow  # noqa: PLC0415 - only whoever encrypts the pixels of a file needs it

        from sdb_client.fitting import upright_rgb  # noqa: PLC0415
    except ImportError:
        raise InvalidImage(
            "to read the pixels of an image file, install sdb-client[images]; or give an array"
        ) from None
    try:
        picture = Pillow.open(io.BytesIO(image)) if isinstance(image, bytes) else image
        return np.asarray(upright_rgb(picture))
    except Exception as error:  # a decoder fed with damaged bytes raises nearly anything
        raise InvalidImage(f"the image cannot be read: {error}") from error
