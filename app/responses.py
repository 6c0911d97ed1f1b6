"""Answers as they leave: whole if they are small, else in parts, each made when the one before has left.

Knows bytes and HTTP; knows no answer. So a large answer is never in memory as a whole, others get their turn while it
is written, and who reads slowly keeps nothing but its own answer waiting.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from itertools import chain

from starlette.responses import Response, StreamingResponse

WHOLE_BYTES = 2**20  # is written within a few milliseconds
PART_BYTES = 2**18
Bytes = bytes | memoryview


def response(
    parts: Iterable[Bytes], media_type: str, headers: Mapping[str, str], length: int | None = None
) -> Response:
    """The response whose body is `parts`, one behind the other; `length` is the sum of theirs, where that is known."""
    pieces = iter(parts)
    begun, size = list[Bytes](), 0
    for piece in pieces:
        begun.append(piece)
        size += len(piece)
        if size > WHOLE_BYTES:
            break
    else:
        return Response(b"".join(begun), media_type=media_type, headers=dict(headers))
    told = {**headers, **({} if length is None else {"Content-Length": str(length)})}
    return StreamingResponse(_leaving(chain(begun, pieces)), media_type=media_type, headers=told)


async def _leaving(pieces: Iterable[Bytes]) -> AsyncIterator[bytes]:
    for part in _parts(pieces):
        yield part
        await asyncio.sleep(0)  # where nothing holds the connection up, this is everybody else's turn


def _parts(pieces: Iterable[Bytes]) -> Iterator[bytes]:
    """The same bytes in parts of about PART_BYTES."""
    kept, size = list[Bytes](), 0
    for piece in pieces:
        for begin in range(0, len(piece), PART_BYTES):
            kept.append(piece[begin : begin + PART_BYTES])
            size += len(kept[-1])
            if size >= PART_BYTES:
                yield b"".join(kept)
                kept, size = [], 0
    yield b"".join(kept)
