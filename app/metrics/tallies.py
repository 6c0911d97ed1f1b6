"""Numbers that one process counts and others may read: float64, each row of them under a name, in a block of memory.

Knows no metric. A block outlives the process that writes it: the next one goes on counting where that ended, so a sum
over blocks never falls. To add to a number takes no lock, so each has one thread that writes it.
"""

import json
import logging
from collections.abc import Iterator

NAMES, NUMBERS = 2**18, 2**15  # bytes; float64: some 3,000 rows
SIZE = NAMES + 8 * NUMBERS
"""Of a block, in bytes; zeros to begin with."""
WORD = 8
UNREAD = NUMBERS - 64  # where rows count that there is no room for
Name = tuple[str, ...]
log = logging.getLogger("sdb.metrics")


class Tallies:
    """The rows of one block; only one process at a time adds to them."""

    def __init__(self, block: memoryview) -> None:
        self._written, self._names = block[:WORD].cast("Q"), block[WORD:NAMES]
        self.values = block[NAMES:].cast("d")
        self._known: dict[Name, int] = {}
        self._next = 0
        for name, width in self._rows():
            self._known[name], self._next = self._next, self._next + width

    def row(self, name: Name, width: int) -> int:
        """Where in `values` the row of this name begins; zeros, if it is new."""
        if name not in self._known:
            self._known[name] = self._add(name, width)
        return self._known[name]

    def rows(self) -> Iterator[tuple[Name, list[float]]]:
        """Every row that there is now, also those that another process has added."""
        begin = 0
        for name, width in self._rows():
            yield name, list(self.values[begin : begin + width])
            begin += width

    def _rows(self) -> Iterator[tuple[Name, int]]:
        for line in self._names[: self._written[0]].tobytes().splitlines():
            width, *name = json.loads(line)
            yield tuple(name), width

    def _add(self, name: Name, width: int) -> int:
        line, begin, end = json.dumps([width, *name]).encode() + b"\n", self._next, self._written[0]
        if begin + width > UNREAD or end + len(line) > len(self._names):
            log.warning("no room to count %s", "/".join(name))
            return UNREAD
        self._names[end : end + len(line)] = line
        self._written[0] = end + len(line)  # last: a reader finds whole lines alone
        self._next = begin + width
        return begin
