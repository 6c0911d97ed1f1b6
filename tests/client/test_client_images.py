"""Whatever a caller has as an image arrives as the image that it is, encrypted or not."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sdb_client import Client
from sdb_client.answers.keys import NewImageKey
from sdb_client.errors import InvalidImage
from sdb_client.images import Images, encoded, pixels, several
from sdb_client.png import png
from sdb_client.sealed import unseal
from sdb_client.transforms import Transform

from tests.client.asking import URL
from tests.conftest import encode, smooth_images

SECRET = bytes(range(32))
TEXT = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
SEALED = NewImageKey(kid="img_1", scheme="sealed", secret=TEXT)
ORIENTATION, TURNED = 0x112, 6


def pixel_key(transform: str, block: int = 4) -> NewImageKey:
    return NewImageKey(kid="img_2", scheme="pixel", transform=transform, block=block, secret=TEXT)


def photo(height: int = 24, width: int = 32) -> np.ndarray[Any, np.dtype[np.uint8]]:
    found: np.ndarray[Any, np.dtype[np.uint8]] = smooth_images(1, 32, seed=3)[0].permute(1, 2, 0).numpy()
    return found[:height, :width]


def decoded(file: bytes) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(io.BytesIO(file)))


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (1, 4, 3), (33, 17, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_array_survives_png(shape: tuple[int, ...], dtype: type) -> None:
    array = np.random.default_rng(1).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)
    if dtype is np.uint16 and len(shape) == 3:  # Pillow reads the high bytes of such a file
        np.testing.assert_array_equal(decoded(png(array)), array >> 8)
    else:
        np.testing.assert_array_equal(decoded(png(array)), array)
    np.testing.assert_array_equal(decoded(png(array[::-1, ::-1])), decoded(png(array))[::-1, ::-1])


@pytest.mark.parametrize("array", [np.zeros((2, 2)), np.zeros((2, 2, 4), np.uint8), np.zeros((0, 2, 3), np.uint8)])
def test_what_is_no_picture_is_no_png(array: np.ndarray[Any, Any]) -> None:
    with pytest.raises(ValueError, match="pixels are"):
        png(array)
    with pytest.raises(InvalidImage):
        encoded(array)


def test_files_go_as_they_are_and_pixels_without_loss(tmp_path: Path) -> None:
    file, path = encode(photo(), "JPEG"), tmp_path / "photo.jpg"
    path.write_bytes(file)
    for given in (file, bytearray(file), memoryview(file), path, str(path)):
        assert encoded(given) == file
    for picture in (photo(), Image.fromarray(photo())):
        np.testing.assert_array_equal(decoded(encoded(picture)), photo())
    palette = Image.fromarray(photo()).convert("P")
    np.testing.assert_array_equal(decoded(encoded(palette)), np.asarray(palette.convert("RGB")))


def test_a_picture_is_sent_as_the_server_would_see_its_file(tmp_path: Path) -> None:
    """Or a phone's photo lay on its side, and of 16-bit grey all but the darkest was white."""
    exif = Image.Exif()
    exif[ORIENTATION] = TURNED
    Image.fromarray(photo()).save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(photo()[..., 0].astype(np.uint16) << 8).save(tmp_path / "deep.png")
    for name in ("turned.png", "deep.png"):
        with Image.open(tmp_path / name) as picture:
            np.testing.assert_array_equal(decoded(encoded(picture)), pixels(tmp_path / name))


def test_a_picture_that_cannot_be_read_is_said_to_be_none() -> None:
    half = encode(photo(), "PNG")[:-200]
    with pytest.raises(InvalidImage, match="cannot be read"):
        encoded(Image.open(io.BytesIO(half)))


@pytest.mark.parametrize("image", [7, None, object(), np.zeros((2, 2, 3), np.float32), "no/such/file.png"])
def test_what_is_no_image_is_said_to_be_none(image: Any) -> None:  # noqa: ANN401
    with pytest.raises(InvalidImage):
        encoded(image)


BATCH = np.zeros((3, 4, 4, 3), np.uint8)


@pytest.mark.parametrize(
    ("images", "count"),
    [
        (b"file", 1),
        ("path", 1),
        (Path("path"), 1),
        (BATCH[0], 1),
        (Image.fromarray(BATCH[0]), 1),
        (BATCH, 3),
        ([b"1", "2"], 2),
        (iter([b"1"]), 1),
    ],
)
def test_one_and_many_are_told_apart(images: Images, count: int) -> None:
    assert len(several(images)) == count


def test_the_pixels_of_a_file_are_those_that_the_server_sees(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = TURNED
    Image.fromarray(photo()).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(pixels(tmp_path / "turned.png"), np.rot90(photo(), -1))
    with pytest.raises(InvalidImage, match="cannot be read"):
        pixels(b"\x89PNG\r\n\x1a\nnothing")


def test_a_sealed_image_opens_with_its_key_for_its_model() -> None:
    with Client("", URL) as client:
        message = client.encrypt.sealed(photo(), SEALED, model="m")
    np.testing.assert_array_equal(decoded(unseal(message, SECRET, kid="img_1", model="m")), photo())


@pytest.mark.parametrize("transform", ["shf", "np", "ffx"])
def test_a_pixel_image_is_undone_by_its_key(transform: str) -> None:
    key = pixel_key(transform)
    with Client("", URL) as client:
        files = [client.encrypt.pixel(image, key, model="m") for image in (photo(), Image.fromarray(photo()))]
    assert files[0] == files[1]
    undo = Transform.from_secret(SECRET, kid="img_2", model="m", steps=(transform,), block=4)
    shown = decoded(files[0])
    codes = shown.astype(np.uint16).reshape(24, 32, 3) if transform == "ffx" else shown
    np.testing.assert_array_equal(undo.invert(codes), photo())


def test_a_key_encrypts_by_its_own_scheme_only_and_images_of_its_blocks() -> None:
    with Client("", URL) as client:
        with pytest.raises(InvalidImage, match="for the scheme sealed"):
            client.encrypt.pixel(photo(), SEALED, model="m")
        with pytest.raises(InvalidImage, match="for the scheme pixel"):
            client.encrypt.sealed(photo(), pixel_key("shf"), model="m")
        with pytest.raises(InvalidImage, match="for the scheme sealed"):
            client.predict(photo(), "m", image_key=SEALED, encryption="pixel")
        with pytest.raises(InvalidImage, match="block"):
            client.encrypt.pixel(photo(23), pixel_key("shf"), model="m")
        with pytest.raises(InvalidImage, match="no image"):
            client.predict([], "m")
        with pytest.raises(InvalidImage, match="uint8"):
            client.infer("m", np.zeros((2, 4, 4, 1), np.uint8))
