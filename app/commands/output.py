"""How every command speaks: a table for people, JSON for scripts, one line on standard error when it fails."""

import shlex
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated

import orjson
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

Json = Annotated[bool, typer.Option("--json", help="print JSON")]
UNBROKEN = 10_000  # columns of a file or a pipe: one row, one line


def report(document: object, as_json: bool, summary: str = "") -> None:
    """Print `document` as JSON, or as a table of its fields followed by a line of summary."""
    if as_json:
        sys.stdout.write(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode() + "\n")
        return
    console = Console(width=None if sys.stdout.isatty() else UNBROKEN)
    if isinstance(document, Mapping):
        console.print(_table([], ([Text(str(key)), _cell(value)] for key, value in document.items())))
    elif isinstance(document, list) and document:
        columns = list(document[0])
        console.print(_table(columns, ([_cell(row[column]) for column in columns] for row in document)))
    elif not summary:
        sys.stderr.write("none\n")
    if summary:
        console.print(summary, highlight=False, markup=False)


def command_line() -> str:
    """The command that is running, as provenance may show it: of a path outside the working folder, the last part."""
    return shlex.join(["sdb", *(Path(part).name if part.startswith(("/", "../")) else part for part in sys.argv[1:])])


def printable(text: str) -> str:
    """`text` with escapes for what would command a terminal or turn the reading direction: others wrote it."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def _table(columns: list[str], rows: Iterable[list[Text]]) -> Table:
    table = Table(*columns, show_header=bool(columns), box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    for number, column in enumerate(table.columns):
        column.overflow = "fold"  # a terminal that is too narrow still shows everything
        column.no_wrap = number == 0  # what a row is called can be copied as a whole
    return table


def _cell(value: object) -> Text:
    if value is None:
        return Text("–")
    return Text(printable(str(value) if isinstance(value, str | int | float) else orjson.dumps(value).decode()))
