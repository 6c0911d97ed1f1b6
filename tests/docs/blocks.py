"""The fenced blocks of a Markdown page, in their order: code, what it prints, and why some of it is not run.

A block without a language directly below a block of code is what that prints. A comment `<!-- not run: reason -->`
stands before a block that cannot run where the tests do. Knows CommonMark, and nothing of servers.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

from tests.conftest import ROOT

RUN = {"python", "sh"}
PARSED = {"ini", "json", "toml", "yaml"}
NOT_RUN = re.compile(r"<!-- not run: (?P<reason>.+?) -->", re.DOTALL)
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))


@dataclass(frozen=True)
class Block:
    """One fenced block: its language ("" for none), the line it begins at, and why it is not run.

    `below` is whether nothing but such a reason stands between the block and the one before it.
    """

    language: str
    text: str
    line: int
    not_run: str | None
    below: bool


@dataclass(frozen=True)
class Step:
    """A block of code that runs, and what a page says that it prints; None where the page does not say."""

    code: Block
    printed: str | None


def blocks(page: Path) -> Iterator[Block]:
    """All of a page, those that are not run too."""
    reason: str | None = None
    below = False
    for token in MarkdownIt().parse(page.read_text()):
        if token.type == "html_block" and (found := NOT_RUN.match(token.content)):
            reason = found["reason"]
        elif token.type == "fence":
            yield Block(token.info, token.content, (token.map or [0])[0] + 1, reason, below)
            reason, below = None, True
        else:
            below = False


def steps(page: Path) -> list[Step]:
    """What of a page is run, each with the output below it."""
    found = list(blocks(page))
    return [
        Step(block, after.text if after and _is_output(after) else None)
        for block, after in zip(found, [*found, None][1:], strict=True)
        if block.language in RUN and block.not_run is None
    ]


def _is_output(block: Block) -> bool:
    return block.below and not block.language and block.not_run is None


def name(page: Path) -> str:
    """A page as the repository knows it."""
    return str(page.relative_to(ROOT))
