"""docs/faults.md tells of every fault that is tested, and of no other."""

import ast
import re
from pathlib import Path

from tests.conftest import ROOT

TABLE = ROOT / "docs" / "faults.md"
HEADER = {"fault"}


def rows() -> list[str]:
    """The first cell of every row, as a test would be called."""
    cells = re.findall(r"^\| ([^|]+?) \|", TABLE.read_text(), re.MULTILINE)
    return ["test_" + re.sub(r"\W+", "_", cell.lower()) for cell in cells if cell not in HEADER]


def covered() -> list[str]:
    """Every test of the suite but those of this file."""
    files = list(Path(__file__).parent.glob("test_*_faults.py"))
    bodies = [node for file in files for node in ast.parse(file.read_text()).body]
    return [node.name for node in bodies if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]


def test_every_row_of_the_table_has_its_test_and_every_test_its_row() -> None:
    assert sorted(rows()) == sorted(covered())
    assert len(rows()) >= 40
