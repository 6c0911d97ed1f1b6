"""Laws of the key derivation: known answers, an independent computation, uniformity, separation of uses."""

import hashlib
import hmac
import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sdb_client.derivation import KeySource, TransformError, uniform, words

SECRET = bytes(range(32))
NAMES = st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters="|"), min_size=1, max_size=8)


def source(secret: bytes = SECRET, kid: str = "demo", model: str = "resnet50", block: int = 4) -> KeySource:
    return KeySource(secret, kid, model, block, 3)


def test_known_answers() -> None:
    """Of an independent program, from the document that specifies the derivation."""
    shuffle, mask = source().permutation("SHF"), source().mask("NP")
    assert shuffle[:16].tolist() == [35, 40, 27, 4, 36, 24, 38, 12, 47, 0, 9, 16, 8, 10, 23, 20]
    digest = hashlib.sha256(shuffle.astype(np.uint8).tobytes()).hexdigest()
    assert digest == "74d61a2b19a14f09aafafb0438142d57dac1b94fdb5901ce1a3196836393cc50"
    assert "".join(str(int(bit)) for bit in mask) == "010101111010000001001111110011101010101010001010"


def by_hand(info: str) -> Iterator[int]:
    """RFC 5869 with nothing but HMAC, then the stream's words."""
    extracted = hmac.digest(bytes(32), SECRET, "sha256")
    seed = hmac.digest(extracted, info.encode() + b"\x01", "sha256")
    stream = hashlib.shake_256(seed).digest(2**20)
    return (int.from_bytes(stream[start : start + 4]) for start in range(0, len(stream), 4))


def drawn(stream: Iterator[int], size: int) -> list[int]:
    entries = list(range(size))
    for last in reversed(range(1, size)):
        while (word := next(stream)) >= 2**32 // (last + 1) * (last + 1):
            pass
        other = word % (last + 1)
        entries[last], entries[other] = entries[other], entries[last]
    return entries


def test_keys_for_a_number_of_blocks_name_it_last_and_follow_each_other_in_one_stream() -> None:
    info = "imgkey/v1|kid=demo|model=resnet50|xf={}|M=4|C=3|N=49"
    assert source().scramble("SCR", 49).tolist() == drawn(by_hand(info.format("SCR")), 49)
    stream = by_hand(info.format("SHFE"))
    assert source().permutations("SHFE", 49).tolist() == [drawn(stream, 48) for _ in range(49)]
    stream = by_hand(info.format("NPE"))
    expected = [
        [place in drawn_first for place in range(48)] for drawn_first in (drawn(stream, 48)[:24] for _ in range(49))
    ]
    assert source().masks("NPE", 49).tolist() == expected


def test_words_are_one_stream_however_many_are_drawn() -> None:
    expected = np.frombuffer(hashlib.shake_256(SECRET).digest(4 * 5000), dtype=">u4").tolist()
    assert list(itertools.islice(words(SECRET), 5000)) == expected


@pytest.mark.parametrize(("bound", "first_refused"), [(3, 2**32 - 1), (48, 2**32 - 16), (2**31 + 1, 2**31 + 1)])
def test_words_that_favour_small_numbers_are_thrown_away(bound: int, first_refused: int) -> None:
    assert uniform(iter([first_refused, 2**32 - 1, 1]), bound) == 1
    assert uniform(iter([first_refused - 1, 1]), bound) == bound - 1


def chi_square(counts: Counter[Any], cells: int) -> float:
    expected = counts.total() / cells
    return sum((count - expected) ** 2 for count in counts.values()) / expected + (cells - len(counts)) * expected


def test_all_orders_are_equally_frequent() -> None:
    """χ² of 23 degrees of freedom: above 49.7 once in a thousand."""
    counts = Counter(tuple(source(kid=f"k{number}").scramble("SCR", 4).tolist()) for number in range(4800))
    assert chi_square(counts, 24) < 49.7


def test_every_entry_comes_to_every_place_equally_often() -> None:
    """χ² of 11 · 11 degrees of freedom: above 173.6 once in a thousand."""
    keys = source(block=2).permutations("SHFE", 6000)
    counts = Counter((place, entry) for key in keys.tolist() for place, entry in enumerate(key))
    assert chi_square(counts, 144) < 173.6


@pytest.mark.parametrize("block", [2, 4, 8, 16])
def test_a_mask_sets_exactly_half_of_its_bits(block: int) -> None:
    assert source(block=block).mask("NP").sum() == block * block * 3 // 2
    assert set(source(block=block).masks("NPE", 10).sum(1).tolist()) == {block * block * 3 // 2}


def test_no_two_uses_share_a_seed() -> None:
    changes: list[Callable[[], bytes]] = [
        lambda: source().seed("SHF"),
        lambda: source().seed("SHF", 48),
        lambda: source().seed("SHF", 4),
        lambda: source().seed("NP"),
        lambda: source(bytes(32)).seed("SHF"),
        lambda: source(kid="dem").seed("SHF"),
        lambda: source(model="resnet5").seed("SHF"),
        lambda: source(block=8).seed("SHF"),
        lambda: KeySource(SECRET, "demo", "resnet50", 4, 1).seed("SHF"),
    ]
    assert len({change() for change in changes}) == len(changes)


@given(st.tuples(NAMES, NAMES), st.tuples(NAMES, NAMES))
def test_two_pairs_of_names_share_a_seed_only_if_they_are_the_same(
    one: tuple[str, str], other: tuple[str, str]
) -> None:
    seeds = {source(kid=kid, model=model).seed("SHF") for kid, model in (one, other)}
    assert len(seeds) == len({one, other})


@pytest.mark.parametrize("name", ["", "a|model=b", "a\n", "a\x00", "a\x7f", "a\u2028", "\ud800"])
def test_a_name_that_could_be_read_in_two_ways_is_refused(name: str) -> None:
    for names in ({"kid": name}, {"model": name}):
        with pytest.raises(TransformError, match="printable"):
            source(**names)  # type: ignore[arg-type]


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_a_secret_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(TransformError, match="32 bytes"):
        source(bytes(length))


def test_a_source_does_not_show_its_secret() -> None:
    assert repr(source()) == "KeySource(kid='demo', model='resnet50', block=4, channels=3)"
