"""An image in millions of pieces, or a progressive JPEG that never ends, costs no more than it is worth."""

import io
import struct
import time
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from app.errors import UndecodableImage
from app.images import decode
from app.segments import MAX_CHUNKS, MAX_OTHER_CHUNKS, MAX_SCANS, MAX_SEGMENTS

LIMIT, BODY = 25_000_000, 2**20
AT_MOST_S = 1.0
ORIENTATION = 0x0112


def jpeg(side: int = 8, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), (9, 99, 9)).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def chunk(kind: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(*pieces: bytes, data: bytes | None = None) -> bytes:
    """A PNG of one pixel, with chunks between its header and its data."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0))
    data = data or chunk(b"IDAT", zlib.compress(bytes(4)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(pieces) + data + chunk(b"IEND")


def with_segments(piece: bytes, count: int) -> bytes:
    plain = jpeg()
    return plain[:2] + piece * count + plain[2:]


def with_scans(count: int, side: int = 8) -> bytes:
    """A progressive JPEG of 10 scans, the last of them until there are `count`."""
    plain = jpeg(side, progressive=True)
    last = plain.rindex(b"\xff\xda")
    return plain[:last] + plain[last:-2] * (count - 9) + plain[-2:]


PIECES: dict[str, Callable[[], bytes]] = {
    "PNG, empty chunks": lambda: png(chunk(b"abCd") * (BODY // 12)),
    "PNG, texts": lambda: png(chunk(b"tEXt", b"a\0b") * (BODY // 15)),
    "PNG, colour profiles": lambda: png(chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(10**6))) * 500),
    "PNG, data byte by byte": lambda: png(data=chunk(b"IDAT", b"x") * (BODY // 13)),
    "PNG, chunks of negative length": lambda: png(b"\xff\xff\xff\xffabCd" * (BODY // 8)),
    "JPEG, empty segments": lambda: with_segments(b"\xff\xe1\0\2", BODY // 4),
    "JPEG, comments": lambda: with_segments(b"\xff\xfe\0\2", BODY // 4),
    "JPEG, restart markers": lambda: with_segments(b"\xff\xd0", BODY // 2),
    "JPEG, nothing at all": lambda: with_segments(b"\xff\xe0\0\2" + bytes(BODY), 1),
    "JPEG, fill bytes": lambda: with_segments(b"\xff" * BODY, 1),
    "JPEG, scans": lambda: with_scans(3000, side=4000),
    "JPEG, comments between scans": lambda: with_scans(40)[:-2] + b"\xff\xfe\0\2" * (BODY // 4) + b"\xff\xd9",
}


@pytest.mark.parametrize("made", PIECES.values(), ids=PIECES.keys())
def test_a_picture_in_too_many_pieces_is_refused_at_once(made: Callable[[], bytes]) -> None:
    encoded = made()
    began = time.thread_time()
    with pytest.raises(UndecodableImage):
        decode(encoded, LIMIT)
    assert time.thread_time() - began < AT_MOST_S


def test_the_limits_are_exact() -> None:
    pieces = len(png().split(b"IDAT")) + 1  # IHDR and IEND beside the data
    full = MAX_OTHER_CHUNKS - pieces + 1
    decode(png(chunk(b"abCd") * full), LIMIT)
    decode(with_scans(MAX_SCANS), LIMIT)
    for encoded in (png(chunk(b"abCd") * (full + 1)), with_scans(MAX_SCANS + 1), png(chunk(b"fdAT") * MAX_CHUNKS)):
        with pytest.raises(UndecodableImage, match="at most"):
            decode(encoded, LIMIT)
    with pytest.raises(UndecodableImage, match=str(MAX_SEGMENTS)):
        decode(with_segments(b"\xff\xfe\0\2", MAX_SEGMENTS), LIMIT)


def test_a_film_behind_a_photo_is_not_taken_for_scans() -> None:
    film = np.random.default_rng(0).integers(0, 256, 2**14, np.uint8).tobytes() + b"\xff\xda" * 2 * MAX_SCANS
    assert np.array_equal(np.asarray(decode(jpeg() + film, LIMIT)), np.asarray(decode(jpeg(), LIMIT)))


def test_a_photo_as_cameras_write_it_passes() -> None:
    turned = Image.Exif()
    turned[ORIENTATION] = 6
    profile = bytes(3 * 65_000)  # in three segments
    encoded = jpeg(exif=turned, icc_profile=profile, comment=b"\xff\xda" * 2 * MAX_SCANS, restart_marker_rows=1)
    assert isinstance(decode(encoded, LIMIT), Image.Image)


def test_a_million_pixels_in_a_row_are_a_picture() -> None:
    for size in ((1, 10**6), (10**6, 1)):
        buffer = io.BytesIO()
        Image.new("RGB", size).save(buffer, "PNG")
        assert np.asarray(decode(buffer.getvalue(), LIMIT)).shape == (size[1], size[0], 3)
