"""Bodies that arrive compressed: gzip or deflate, unpacked while they arrive and never beyond a limit.

Knows bytes; knows no HTTP beyond the names of the codings (RFC 9110 §8.4.1).
"""

import zlib

GZIP, ZLIB = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS  # `deflate` is the zlib format, not the bare stream
WINDOWS = {"gzip": GZIP, "x-gzip": GZIP, "deflate": ZLIB}


class Malformed(Exception):
    """The bytes are not of the coding that they were said to be of, or have no end."""


class TooLarge(Exception):
    """More than the limit came out."""


class Unpacker:
    """One body, part by part; at most one byte beyond `limit` is unpacked, whatever the parts promise.

    A body is one gzip member: thousands of empty ones would cost much and bring nothing.
    """

    def __init__(self, coding: str, limit: int) -> None:
        self._stream, self._left = zlib.decompressobj(WINDOWS[coding]), limit
        self._begun = False

    def __call__(self, part: bytes, *, last: bool) -> bytes:
        """What `part` unpacks to; `last`: no other part follows.

        Raises:
            Malformed: the body is damaged, goes on after its end, or this was the last part and it has no end.
            TooLarge: it unpacks to more than the limit.
        """
        self._begun |= bool(part)
        try:
            unpacked = self._stream.decompress(part, self._left + 1)
        except zlib.error:
            raise Malformed("it is damaged") from None
        self._left -= len(unpacked)
        if self._left < 0:
            raise TooLarge
        if self._stream.unused_data:
            raise Malformed("something follows its end")
        if last and self._begun and not self._stream.eof:
            raise Malformed("it ends too early")
        return unpacked
