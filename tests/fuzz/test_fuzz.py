"""Every parser of what strangers send keeps its law: for a moment by chance, and for longer under a guided fuzzer."""

import random
import sys
from pathlib import Path

import pytest

from tests.fuzz.__main__ import fuzzed
from tests.fuzz.targets import NAMES, Target, target

BY_CHANCE, GUIDED = 100, 20_000


def changed(content: bytes, chance: random.Random) -> bytes:
    """Some bytes replaced, inserted, cut out or said again."""
    found = bytearray(content)
    for _ in range(chance.randint(1, 6)):
        at = chance.randint(0, len(found))
        match chance.randrange(4):
            case 0:
                found[at : at + 1] = chance.randbytes(1)
            case 1:
                found[at:at] = chance.randbytes(chance.randint(1, 8))
            case 2:
                del found[at : at + chance.randint(1, 8)]
            case 3:
                found[at:at] = found[at : at + chance.randint(1, 64)]
    return bytes(found)


@pytest.mark.parametrize("name", NAMES)
def test_a_parser_keeps_its_law_for_bytes_changed_by_chance(name: str) -> None:
    parser: Target = target(name)
    chance = random.Random(name)  # noqa: S311 - the same bytes each time
    for seed in parser.seeds:
        parser.feed(seed)
    for _ in range(BY_CHANCE):
        parser.feed(changed(chance.choice(parser.seeds), chance))
        parser.feed(chance.randbytes(chance.randint(0, 64)))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_parser_keeps_its_law_for_what_a_guided_fuzzer_finds(name: str, tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason=f"no coverage-guided fuzzer for {sys.platform} here")
    outcome, said = fuzzed(name, GUIDED, tmp_path)
    assert (outcome.runs, outcome.crashes) == (GUIDED, 0), said[-4000:]
    assert outcome.edges > 0
