"""docs/threat-model.md and docs/supply-chain.md name tests that exist, and limits as the program has them."""

import re

import pytest

from app.json_body import MAX_CONTAINERS, MAX_VALUES
from app.request_heads import MAX_UNREAD_BYTES
from app.segments import MAX_CHUNKS, MAX_OTHER_CHUNKS, MAX_SCANS, MAX_SEGMENTS
from keys.tokens import MAX_TOKEN
from tests.conftest import ROOT

PAGES = ("threat-model.md", "supply-chain.md")
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
ACTORS = ("Anonymous", "Client", "Colluding", "operator", "store", "Network")


@pytest.mark.parametrize("page", PAGES)
def test_every_test_that_a_page_names_exists(page: str) -> None:
    named = NAMED.findall((ROOT / "docs" / page).read_text())
    assert named
    for path, name in named:
        assert f"def {name}(" in (ROOT / path).read_text(), f"{path}::{name}"


def test_every_attack_that_is_stopped_names_its_test() -> None:
    page = (ROOT / "docs" / "threat-model.md").read_text()
    attacks = page[page.index("## Who attacks") : page.index("## What is not protected")]
    assert all(actor in attacks for actor in ACTORS)
    rows = [row for row in attacks.splitlines() if row.startswith("| ") and "shown by" not in row]
    assert len(rows) > 35
    assert [row for row in rows if not NAMED.search(row) and "**can, without TLS**" not in row] == []


def test_the_limits_of_the_page_are_those_of_the_program() -> None:
    page = (ROOT / "docs" / "threat-model.md").read_text()
    limits = page[page.index("## Limits of what") : page.index("## Fuzzing")]
    assert MAX_UNREAD_BYTES == 64 * 2**10
    for number in (MAX_SCANS, MAX_SEGMENTS, MAX_CHUNKS, MAX_OTHER_CHUNKS, MAX_VALUES, MAX_CONTAINERS, MAX_TOKEN):
        assert f"{number:,}" in limits
