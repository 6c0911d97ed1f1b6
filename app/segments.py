"""The pieces that an image file is made of, counted before a decoder reads them. Knows no pixels.

A picture of few pixels in millions of tiny pieces keeps a decoder busy for a minute, and so does a picture that a
progressive JPEG says again and again: each scan of it, even one of forty bytes, is a walk through all of its pixels.
"""

import re
from collections.abc import Iterator

from app.errors import UndecodableImage

MAX_SCANS = 32  # libjpeg writes 10, mozjpeg a few more; 32 of 25 million pixels take a second and a half
MAX_SEGMENTS = 1024  # of a JPEG before its first scan: a colour profile may take 255
MAX_CHUNKS = 2**14  # of a PNG: 16 MiB in IDAT chunks of 1 KiB, an eighth of what libpng writes
MAX_OTHER_CHUNKS = 256  # beside the picture's own: Pillow unpacks up to a megabyte from each
PICTURE = {b"IDAT", b"fcTL", b"fdAT"}

SOI, PNG_BEGIN = 2, 8  # bytes before the first piece
SCAN, END = 0xDA, 0xD9
SCAN_BEGIN = b"\xff\xda"
SHORTEST = 2  # bytes of a segment: a marker without a length
STANDALONE = {0x01, *range(0xD0, 0xD9)}  # TEM, RST0 … RST7, SOI: markers without a length
# Before the first scan nothing but markers is expected; little else between them is what decoders put up with.
NEXT = re.compile(rb"[^\xff]{0,64}\xff{1,64}([^\x00\xff])")
# In and behind a scan, 0xFF stands before 0x00 or a restart marker, unless something else begins.
BEHIND_SCAN = re.compile(rb"\xff([^\x00\x01\xff\xd0-\xd8])")


def check_jpeg(encoded: bytes) -> None:
    """Pass a JPEG (ITU T.81, annex B) that is read in a time which goes with its size.

    Raises:
        UndecodableImage: it has too many segments or scans, or something else in their place.
    """
    few_scans = encoded.count(SCAN_BEGIN) <= MAX_SCANS
    if few_scans and len(encoded) < MAX_SEGMENTS * SHORTEST:
        return  # most small images: to walk through one takes as long as to decode it
    at = SOI
    for _ in range(MAX_SEGMENTS):
        marker = NEXT.match(encoded, at)
        if marker is None:
            raise UndecodableImage("the image is damaged")
        kind, at = marker[1][0], marker.end()
        if kind in {SCAN, END}:
            break
        if kind not in STANDALONE:
            at += _length(encoded, at)
    else:
        raise UndecodableImage(f"a JPEG has at most {MAX_SEGMENTS} segments before its first scan")
    # Two bytes that look like a scan may be anywhere, in a film behind the picture too: only if many do is it read.
    if not few_scans:
        _check_scans(encoded, at)


def _check_scans(encoded: bytes, at: int) -> None:
    scans = 1
    for _ in range(MAX_SEGMENTS):
        marker = BEHIND_SCAN.search(encoded, at + _length(encoded, at))
        if marker is None or marker[1][0] == END:
            return
        at, scans = marker.end(), scans + (marker[1][0] == SCAN)
        if scans > MAX_SCANS:
            break
    raise UndecodableImage(f"a JPEG has at most {MAX_SCANS} scans")


def _length(encoded: bytes, at: int) -> int:
    return max(2, int.from_bytes(encoded[at : at + 2]))


def check_png(encoded: bytes) -> None:
    """Pass a PNG (ISO/IEC 15948, clause 5) that is read in a time which goes with its size.

    Raises:
        UndecodableImage: it has too many chunks.
    """
    others = 0
    for number, kind in enumerate(_chunks(encoded)):
        others += kind not in PICTURE
        if number >= MAX_CHUNKS or others > MAX_OTHER_CHUNKS:
            raise UndecodableImage(f"a PNG has at most {MAX_CHUNKS} chunks, {MAX_OTHER_CHUNKS} of them not its picture")


def _chunks(encoded: bytes) -> Iterator[bytes]:
    """What the chunks are called, in order."""
    at = PNG_BEGIN
    while at < len(encoded):
        yield encoded[at + 4 : at + 8]
        at += 12 + int.from_bytes(encoded[at : at + 4])
