"""Where the processes of a server count so that any of them can tell the sum: a block of memory for each."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from app.metrics.families import Replaces
from app.metrics.tallies import SIZE


@dataclass(frozen=True)
class Share:
    """The blocks of all processes of a server, which of them is this one's, and whose place it takes."""

    blocks: Sequence[memoryview]
    number: int
    replaces: Replaces | None = None

    @classmethod
    def alone(cls) -> "Share":
        """A server of one process."""
        return cls([memoryview(bytearray(SIZE))], 0)

    @classmethod
    def of(cls, blocks: Sequence[object], number: int, replaces: Replaces | None = None) -> "Share":
        """Of arrays of SIZE bytes that processes share."""
        views = [np.frombuffer(block, np.uint8).data for block in blocks]  # type: ignore[call-overload]
        return cls(views, number, replaces)
