"""The part of CBOR (RFC 8949) that COSE headers are written in, read strictly. Knows no COSE.

cbor2 reads all of it, which is too much before anything is authenticated: tagged items become regular expressions,
e-mails or big floats, the labels 1.0 and true count as 1, of two equal labels the last one wins, bytes after the end
are ignored, and 16 MB of headers are read in full. Here there are integers, floats, short strings and maps in maps.
"""

import struct

BYTES, ARRAY, MAP, TAG = 2, 4, 5, 6  # major types (§3.1)
LONGEST_STRING, MOST_PAIRS, DEEPEST_MAP = 1024, 16, 2
FLOATS = {2: ">e", 4: ">f", 8: ">d"}

Label = int | str
Value = int | float | bytes | str | dict[Label, "Value"]


class CborError(ValueError):
    """Not the CBOR that is expected; the message says what is."""


class Reader:
    """Reads one item after the other from `data`; every method raises CborError."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._data, self._at = memoryview(data), 0

    def expect(self, major: int) -> int:
        """The number that the head of the next item holds; it must be of this major type."""
        found, argument, _ = self._head()
        if found != major:
            raise CborError(f"an item of major type {major} is expected")
        return argument

    def string(self) -> memoryview:
        """The content of a byte string of any length."""
        return self._take(self.expect(BYTES))

    def map(self, depth: int = 1) -> dict[Label, Value]:
        """A map of few pairs, each label once."""
        return self._pairs(self.expect(MAP), depth)

    def end(self) -> None:
        """Return if all has been read."""
        if self._at != len(self._data):
            raise CborError("nothing may follow")

    def _take(self, length: int) -> memoryview:
        start, self._at = self._at, self._at + length
        if self._at > len(self._data):
            raise CborError("it ends too early")
        return self._data[start : self._at]

    def _head(self) -> tuple[int, int, memoryview]:
        """Major type, argument, and the bytes of an argument that is not in the first byte (§3)."""
        major, short = divmod(self._take(1)[0], 32)
        if short < 24:
            return major, short, self._take(0)
        if short > 27:
            raise CborError("lengths must be definite")
        argument = self._take(1 << (short - 24))
        return major, int.from_bytes(argument), argument

    def _pairs(self, count: int, depth: int) -> dict[Label, Value]:
        if count > MOST_PAIRS or depth > DEEPEST_MAP:
            raise CborError("a map has too many pairs, or lies too deep")
        pairs: dict[Label, Value] = {}
        for _ in range(count):
            label, value = self._value(depth), self._value(depth)
            if not isinstance(label, int | str) or label in pairs:
                raise CborError("a label is an integer or a text, and there once")
            pairs[label] = value
        return pairs

    def _value(self, depth: int) -> Value:
        major, argument, content = self._head()
        match major:
            case 0:
                return argument
            case 1:
                return -1 - argument
            case 2:
                return bytes(self._short(argument))
            case 3:
                return _text(self._short(argument))
            case 5:
                return self._pairs(argument, depth + 1)
            case 7 if len(content) in FLOATS:
                number: float = struct.unpack(FLOATS[len(content)], content)[0]
                return number
        raise CborError("a header holds integers, floats, strings and maps")

    def _short(self, length: int) -> memoryview:
        if length > LONGEST_STRING:
            raise CborError("a string is too long")
        return self._take(length)


def _text(content: memoryview) -> str:
    try:
        return str(content, "utf-8")
    except UnicodeDecodeError:
        raise CborError("a text is not UTF-8") from None
