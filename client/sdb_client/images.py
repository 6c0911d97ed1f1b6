"""What callers have as an image, as the bytes of an image file; or, before it is encrypted, as pixels.

Knows files, arrays and whatever saves itself as PIL's images do; needs PIL only to read the pixels of a file.
"""

import io
from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import IO, Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sdb_client.errors import InvalidImage
from sdb_client.png import png


class Picture(Protocol):
    """A PIL image, as far as it is used here."""

    @property
    def mode(self) -> str:
        """The kind of its pixels."""

    def convert(self, mode: str) -> Any:  # noqa: ANN401 - another of the same class
        """The picture with pixels of another kind."""

    def save(self, fp: IO[bytes], format: str) -> None:  # noqa: A002 - PIL's name
        """Write it to a file."""


Image: TypeAlias = bytes | bytearray | memoryview | str | PathLike[str] | NDArray[np.uint8] | Picture
"""The bytes of an image file, the path of one, pixels uint8 [H, W, 3] (RGB) or [H, W] (grey), or a PIL image."""
Images: TypeAlias = Image | Iterable[Image]
"""One image or several; pixels uint8 [N, H, W, 3] are several."""
SAVED_AS_THEY_ARE = frozenset({"L", "RGB"})


def several(images: Images) -> list[Image]:
    """The images as a list, whether it is one or many."""
    if isinstance(images, np.ndarray):
        return list(images) if images.ndim == 4 else [images]
    if isinstance(images, bytes | bytearray | memoryview | str | PathLike) or not isinstance(images, Iterable):
        return [images]
    return list(images)


def encoded(image: Image) -> bytes:
    """The bytes of an image file: those given, those of the file named, or a PNG, which loses nothing.

    Raises:
        InvalidImage: it is no image, or the file cannot be read.
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
        case _ if hasattr(image, "save"):
            return _saved(image)
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
    return _decoded(encoded(image))


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


def _saved(picture: Picture) -> bytes:
    buffer = io.BytesIO()
    upright = picture if picture.mode in SAVED_AS_THEY_ARE else picture.convert("RGB")
    upright.save(buffer, format="PNG")
    return buffer.getvalue()


def _decoded(file: bytes) -> NDArray[np.uint8]:
    try:
        from PIL import Image as Pillow  # noqa: PLC0415 - only whoever encrypts the pixels of a file needs it

        from sdb_client.fitting import upright_rgb  # noqa: PLC0415
    except ImportError:
        raise InvalidImage(
            "to read the pixels of an image file, install sdb-client[images]; or give an array"
        ) from None
    try:
        with Pillow.open(io.BytesIO(file)) as picture:
            return np.asarray(upright_rgb(picture))
    except Exception as error:  # a decoder fed with damaged bytes raises nearly anything
        raise InvalidImage(f"the image cannot be read: {error}") from error
