"""A compressed body is unpacked within the limit, whatever it promises, in parts of any size."""

import contextlib
import gzip
import tracemalloc
import zlib
from collections.abc import Callable

import hypothesis
import pytest
from hypothesis import strategies as st

from app.encodings import Malformed, TooLarge, Unpacker

PACK: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress}


def unpacked(packed: bytes, coding: str = "gzip", limit: int = 1000, step: int = 7) -> bytes:
    unpacker = Unpacker(coding, limit)
    parts = [packed[start : start + step] for start in range(0, len(packed), step)] or [b""]
    return b"".join(unpacker(part, last=number == len(parts) - 1) for number, part in enumerate(parts))


@hypothesis.given(st.binary(max_size=1000), st.sampled_from(sorted(PACK)), st.integers(1, 50))
def test_what_was_packed_is_unpacked_in_parts_of_any_size(content: bytes, coding: str, step: int) -> None:
    assert unpacked(PACK[coding](content), coding, step=step) == content


@hypothesis.given(st.binary(max_size=300), st.sampled_from(["", "gzip", "deflate"]), st.sampled_from(sorted(PACK)))
def test_any_bytes_are_unpacked_or_refused(content: bytes, inside: str, coding: str) -> None:
    packed = PACK[inside](content)[:-1] if inside else content
    with contextlib.suppress(Malformed, TooLarge):
        assert len(unpacked(packed, coding)) <= 1000


@pytest.mark.parametrize("coding", sorted(PACK))
def test_the_limit_is_exact(coding: str) -> None:
    assert len(unpacked(PACK[coding](b"x" * 1000), coding)) == 1000
    with pytest.raises(TooLarge):
        unpacked(PACK[coding](b"x" * 1001), coding)


@pytest.mark.parametrize("coding", sorted(PACK))
def test_a_body_that_is_cut_off_or_goes_on_is_refused(coding: str) -> None:
    packed = PACK[coding](b"picture")
    for bad in (packed[:-1], packed + b"x", packed + packed, packed[:-3] + bytes([packed[-3] ^ 1]) + packed[-2:]):
        with pytest.raises(Malformed):
            unpacked(bad, coding)


def test_a_bomb_takes_no_more_memory_than_the_limit() -> None:
    bomb, limit = gzip.compress(bytes(200 * 2**20), 1), 2**20
    tracemalloc.start()
    with pytest.raises(TooLarge):
        unpacked(bomb, limit=limit, step=len(bomb))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * limit + len(bomb)
