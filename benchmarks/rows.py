"""What a benchmark leaves: a table on the terminal, and a JSON file in results/ that says what made it and where.

Knows rows of names and numbers; measures nothing.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from models.bundles import write_atomically
from models.environment import environment

RESULTS = Path(__file__).parent / "results"


def show(title: str, rows: Sequence[Mapping[str, object]]) -> None:
    """Print rows that have the same columns."""
    table = Table(*rows[0], title=title)
    for row in rows:
        table.add_row(*map(str, row.values()))
    Console().print(table)


def with_table(page: str, name: str, rows: Iterable[Sequence[str]]) -> str:
    """A page of the documentation with the rows of the table of that name replaced; its head stays."""
    begin, end = f"<!-- {name} -->\n", f"\n<!-- end of {name} -->"
    before, _, rest = page.partition(begin)
    table, _, after = rest.partition(end)
    head = table.splitlines()[:2]
    lines = [*head, *(f"| {' | '.join(row)} |" for row in rows)]
    return before + begin + "\n".join(lines) + end + after


def keep(command: str, parts: Mapping[str, object], file: str = "") -> None:
    """Write results/`file`.json, by default under the name of the module that `command` begins with."""
    document = {"command": f"python -m benchmarks.{command}", **environment(), **parts}
    _write(RESULTS / f"{file or command.split(maxsplit=1)[0]}.json", document)


class Kept:
    """The rows of results/`name`.json, which lie there as soon as they are made: the same command goes on with them."""

    def __init__(self, name: str) -> None:
        self._path = RESULTS / f"{name}.json"
        self.rows: list[dict[str, Any]] = json.loads(self._path.read_text())["rows"] if self._path.exists() else []

    def has(self, named: Mapping[str, object]) -> bool:
        """Whether there is a row with all of these entries."""
        return any(named.items() <= row.items() for row in self.rows)

    def add(self, row: Mapping[str, object]) -> None:
        """Print a row and keep it, with what it was measured on."""
        print(row, flush=True)
        self.rows.append({**row, **environment()})
        _write(self._path, {"rows": self.rows})


def _write(path: Path, document: Mapping[str, object]) -> None:
    write_atomically(path, (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode())
