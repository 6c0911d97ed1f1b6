"""How every command speaks: a table for people, JSON for scripts, one line on standard error when it fails."""

import shlex
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import orjson
from rich.console import Console
from rich.table import Table


def report(document: object, as_json: bool, summary: str = "") -> None:
    """Print `document` as JSON, or as a table of its fields followed by a line of summary."""
    if as_json:
        sys.stdout.write(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode() + "\n")
        return
    console = Console()
    if isinstance(document, Mapping):
        console.print(_table([], ([str(key), _cell(value)] for key, value in document.items())))
    elif isinstance(document, list) and document:
        columns = list(document[0])
        console.print(_table(columns, ([_cell(row[column]) for column in columns] for row in document)))
    if summary:
        console.print(summary, highlight=False)


def command_line() -> str:
    """The command that is running, as provenance may show it: of a path outside the working folder, the last part."""
    return shlex.join(["sdb", *(Path(part).name if part.startswith(("/", "../")) else part for part in sys.argv[1:])])


def _table(columns: list[str], rows: Iterable[list[str]]) -> Table:
    table = Table(*columns, show_header=bool(columns), box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    return table


def _cell(value: object) -> str:
    if isinstance(value, str | int | float):
        return str(value)
    return "–" if value is None else orjson.dumps(value).decode()
