"""Untrusted bytes become an upright RGB picture, or one of two refusals."""

import contextlib
import io
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from app.errors import TooManyPixels, UndecodableImage, UnsupportedImage
from app.images import AT_ONCE_PIXELS, area, at_once
from app.images import decode as decoded
from tests.conftest import encode, smooth_images

LIMIT = 1_000_000
PIXELS = smooth_images(1, 24)[0].permute(1, 2, 0).numpy()[:16]
ORIENTATION = 0x0112
Pixel = tuple[int, ...]


def decode(encoded: bytes, max_pixels: int) -> Image.Image:
    """What is shown, in one form whichever decoder it came from."""
    return Image.fromarray(np.asarray(decoded(encoded, max_pixels)))


def by_pillow(encoded: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(encoded)) as image:
        return np.asarray(image.convert("RGB"))


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def colour(image: Image.Image, x: int, y: int) -> Pixel:
    """The pixel as an RGB triple."""
    return tuple(int(part) for part in np.asarray(image)[y, x])


def near(one: Pixel, other: Pixel, tolerance: int = 6) -> bool:
    return all(abs(a - b) <= tolerance for a, b in zip(one, other, strict=True))


def test_a_lossless_picture_comes_out_pixel_by_pixel() -> None:
    for encoded in (encode(PIXELS), saved(Image.fromarray(PIXELS), "WEBP", lossless=True)):
        image = decode(encoded, LIMIT)
        assert image.mode == "RGB"
        assert np.array_equal(np.asarray(image), PIXELS)


def test_a_jpeg_comes_out_nearly_as_it_went_in() -> None:
    image = decode(saved(Image.fromarray(PIXELS), "JPEG", quality=95, subsampling=0), LIMIT)
    assert np.abs(np.asarray(image).astype(int) - PIXELS).mean() < 4


def test_a_cmyk_jpeg_keeps_its_colours() -> None:
    image = decode(saved(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=95), LIMIT)
    assert image.mode == "RGB"
    assert near(colour(image, 4, 4), (255, 0, 0))


def test_a_grey_picture_has_three_equal_channels() -> None:
    levels = np.arange(0, 256, 4, dtype=np.uint8).reshape(8, 8)
    image = np.asarray(decode(encode(levels), LIMIT))
    assert np.array_equal(image, np.repeat(levels[:, :, None], 3, axis=2))


def test_a_16_bit_grey_png_keeps_its_brightness() -> None:
    levels = (np.arange(64, dtype=np.uint16) * 1040).reshape(8, 8)
    image = np.asarray(decode(saved(Image.fromarray(levels), "PNG"), LIMIT)).astype(int)
    assert image.shape == (8, 8, 3)
    assert np.abs(image[:, :, 0] - levels / 257).max() <= 1


def test_a_bilevel_picture_is_black_and_white() -> None:
    image = Image.new("1", (2, 1))
    image.putpixel((1, 0), 1)
    decoded = decode(saved(image, "PNG"), LIMIT)
    assert (colour(decoded, 0, 0), colour(decoded, 1, 0)) == ((0, 0, 0), (255, 255, 255))


def test_transparency_leaves_the_opaque_colours_alone() -> None:
    palette = Image.new("P", (3, 1))
    palette.putpalette([250, 10, 20, 10, 240, 30, 1, 2, 230])
    for x in range(3):
        palette.putpixel((x, 0), x)
    opaque = {1: (10, 240, 30), 2: (1, 2, 230)}
    rgba = palette.convert("RGBA")
    rgba.putpixel((0, 0), (250, 10, 20, 0))
    for encoded in (
        saved(palette, "PNG", transparency=0),
        saved(palette, "PNG", transparency=bytes([0, 255, 255])),
        saved(rgba, "PNG"),
        saved(rgba, "WEBP", lossless=True),
    ):
        image = decode(encoded, LIMIT)
        assert image.mode == "RGB"
        assert {x: colour(image, x, 0) for x in opaque} == opaque


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_the_exif_orientation_is_applied(kind: str) -> None:
    # 6: the first row of the file is the right-hand side of the picture.
    stored = Image.new("RGB", (32, 16), (0, 0, 255))
    stored.paste((255, 0, 0), (0, 0, 32, 8))
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    image = decode(saved(stored, kind, exif=exif.tobytes(), quality=95), LIMIT)
    assert image.size == (16, 32)
    assert near(colour(image, 14, 16), (255, 0, 0), 12)
    assert near(colour(image, 1, 16), (0, 0, 255), 12)


def test_a_16_bit_grey_png_is_turned_upright_too() -> None:
    levels = np.zeros((4, 8), np.uint16)
    levels[:2] = 65535
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    image = decode(saved(Image.fromarray(levels), "PNG", exif=exif.tobytes()), LIMIT)
    assert image.size == (4, 8)
    assert (colour(image, 3, 4), colour(image, 0, 4)) == ((255, 255, 255), (0, 0, 0))


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_of_an_animation_the_first_frame_counts(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), shade) for shade in ((200, 0, 0), (0, 200, 0), (0, 0, 200))]
    encoded = saved(frames[0], kind, save_all=True, append_images=frames[1:], duration=50, lossless=True)
    assert near(colour(decode(encoded, LIMIT), 4, 4), (200, 0, 0))


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "PPM", "ICO"])
def test_other_image_formats_are_unsupported(kind: str) -> None:
    with pytest.raises(UnsupportedImage, match="JPEG, PNG, WEBP"):
        decode(saved(Image.fromarray(PIXELS), kind), LIMIT)


@pytest.mark.parametrize("content", [b"", b"\x89", b"%PDF-1.7", b"hello", b"<svg/>", b"RIFF\x00\x00\x00\x00WAVE"])
def test_what_is_no_image_is_unsupported(content: bytes) -> None:
    with pytest.raises(UnsupportedImage):
        decode(content, LIMIT)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_half_a_picture_is_undecodable(kind: str) -> None:
    encoded = saved(Image.fromarray(smooth_images(1, 64)[0].permute(1, 2, 0).numpy()), kind)
    for part in (encoded[: len(encoded) // 2], encoded[:16]):
        with pytest.raises(UndecodableImage):
            decode(part, LIMIT)


def test_one_pixel_over_the_limit_is_too_many() -> None:
    encoded = encode(PIXELS)
    assert decode(encoded, PIXELS.shape[0] * PIXELS.shape[1]).size == (24, 16)
    with pytest.raises(UndecodableImage, match="at most 383 pixels"):
        decode(encoded, 383)


def unfolding_to(width: int, height: int) -> bytes:
    """A PNG of 70 bytes that claims this many pixels and holds none."""
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(b"")))
    parts = (
        struct.pack(">I", len(data)) + tag + data + struct.pack(">I", zlib.crc32(tag + data)) for tag, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_a_bomb_is_refused_by_its_header_alone() -> None:
    with pytest.raises(UndecodableImage, match="at most 1000000 pixels"):
        decode(unfolding_to(10_000, 10_000), LIMIT)
    for width, height in ((2**16, 2**15), (2**31 - 1, 2**31 - 1), (1, 2**31 - 1), (0, 1)):
        with pytest.raises(UndecodableImage):
            decode(unfolding_to(width, height), LIMIT)


SUBSAMPLINGS = ["4:4:4", "4:2:2", "4:2:0", "4:1:1"]


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_a_plain_jpeg_has_the_pixels_that_pillow_gives_it(subsampling: str, progressive: bool) -> None:
    photo = Image.fromarray(smooth_images(1, 61)[0].permute(1, 2, 0).numpy()[:47])
    for quality in (10, 75, 100):
        encoded = saved(photo, "JPEG", quality=quality, subsampling=subsampling, progressive=progressive)
        pixels = decoded(encoded, LIMIT)
        assert isinstance(pixels, np.ndarray), "and comes from the fast decoder"
        assert np.array_equal(pixels, by_pillow(encoded))


def test_a_jpeg_of_another_kind_is_pillows() -> None:
    photo = Image.fromarray(PIXELS)
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    others = [
        saved(photo.convert("L"), "JPEG"),
        saved(photo.convert("CMYK"), "JPEG"),
        saved(photo, "JPEG", exif=exif.tobytes()),
        saved(photo, "JPEG", xmp=b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'),
    ]
    assert all(isinstance(decoded(encoded, LIMIT), Image.Image) for encoded in others)
    assert [decode(encoded, LIMIT).size for encoded in others] == [(24, 16), (24, 16), (16, 24), (16, 24)]


def test_real_jpegs_have_the_pixels_that_pillow_gives_them(data: Path) -> None:
    table = pq.read_table(data / "imagenet1k_sample1000_test.parquet", columns=["image"])
    images = [bytes(image) for image in table.column("image").to_numpy()[:60]]
    encoded = [image for image in images if image.startswith(b"\xff\xd8\xff")]
    assert len(encoded) > 20
    for image in encoded:
        assert np.array_equal(np.asarray(decoded(image, 10 * LIMIT)), by_pillow(image))


def test_a_jpeg_over_the_limit_is_refused_by_its_header_whoever_decodes_it() -> None:
    for mode in ("RGB", "L", "CMYK"):
        encoded = saved(Image.new(mode, (200, 100)), "JPEG")
        with pytest.raises(UndecodableImage, match="at most 19999 pixels"):
            decode(encoded, 19_999)
        assert area(decoded(encoded, 20_000)) == 20_000


def with_scans(count: int) -> bytes:
    """A progressive JPEG of 64 by 64 pixels that says its last scan over and over."""
    encoded = saved(
        Image.fromarray(smooth_images(1, 64)[0].permute(1, 2, 0).numpy()), "JPEG", progressive=True, quality=1
    )
    begin = encoded.rindex(b"\xff\xda")
    return encoded[:begin] + encoded[begin:-2] * count + encoded[-2:]


def test_only_what_is_decoded_in_no_time_is_decoded_at_once() -> None:
    photo = Image.fromarray(PIXELS)
    assert all(at_once(content) for content in (saved(photo, "JPEG"), saved(photo, "PNG"), PIXELS))
    large = np.zeros((64, 65, 3), np.uint8)
    bombs = (with_scans(2000), unfolding_to(64, 64) + b"x" * 2**13)
    texts = PngInfo()
    for number in range(7):
        texts.add_text(f"{number}", " " * 2**20, zip=True)
    packed = (saved(photo, "PNG", pnginfo=texts), saved(photo, "PNG", icc_profile=bytes(2**16)))
    assert all(len(content) <= 2**13 for content in packed)
    others = (b"", b"hello", saved(photo, "WEBP"))
    for content in (*bombs, *packed, *others, large):
        assert not at_once(content)


def test_few_bytes_that_unfold_to_more_are_found_out_before_they_do() -> None:
    large = Image.new("RGB", (65, 64))
    for content in (
        saved(large, "JPEG"),
        saved(large, "PNG"),
        saved(large.convert("L"), "JPEG"),
        unfolding_to(10_000, 10_000),
    ):
        assert at_once(content)
        with pytest.raises(TooManyPixels):
            decode(content, AT_ONCE_PIXELS)


def test_the_slowest_that_is_decoded_at_once_holds_nobody_up() -> None:
    content = next(found for count in range(3000, 0, -1) if len(found := with_scans(count)) <= 2**13)
    assert at_once(content)
    times = []
    for _ in range(3):
        began = time.thread_time()
        with contextlib.suppress(UndecodableImage):
            decoded(content, LIMIT)
        times.append(time.thread_time() - began)
    assert min(times) < 0.05


@given(st.data())
def test_damage_gives_a_picture_or_a_refusal_and_nothing_else(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["JPEG", "PNG", "WEBP"]))
    content = bytearray(saved(Image.fromarray(PIXELS), kind))
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=8)):
        content[place] = data.draw(st.integers(0, 255))
    try:
        image = decode(bytes(content), LIMIT)
    except (UndecodableImage, UnsupportedImage):
        return
    assert image.mode == "RGB"
    assert image.width * image.height <= LIMIT
