"""Fuzzes bodies that arrive compressed: unpacked in parts of any size, never beyond the limit."""

import zlib

from app.encodings import GZIP, WINDOWS, ZLIB, Malformed, TooLarge, Unpacker

LIMIT = 4096
CODINGS = sorted(WINDOWS)
CONTENTS = (b"", b"abc" * 50, bytes(LIMIT), bytes(LIMIT + 1), bytes(2**20))


def _packed(content: bytes, window: int) -> bytes:
    packer = zlib.compressobj(wbits=window)
    return packer.compress(content) + packer.flush()


SEEDS = [
    bytes([coding, part]) + _packed(content, window)
    for content in CONTENTS
    for window in (GZIP, ZLIB, -ZLIB)
    for coding in range(len(CODINGS))
    for part in (1, 200)
]


def feed(data: bytes) -> None:
    """The first byte is the coding, the second the size of a part."""
    if len(data) < 2:
        return
    coding, step, body = CODINGS[data[0] % len(CODINGS)], data[1] + 1, data[2:]
    unpack, found = Unpacker(coding, LIMIT), b""
    try:
        for at in range(0, max(1, len(body)), step):
            found += unpack(body[at : at + step], last=at + step >= len(body))
            assert len(found) <= LIMIT
    except (Malformed, TooLarge):
        return
    assert not body or found == zlib.decompress(body, WINDOWS[coding])
