"""A credential on the command line: never itself, only where it is."""

import re
import sys
from pathlib import Path

import typer


def read(file: Path | None) -> str | None:
    """The API key or token in `file`, or on standard input if it is called `-`; None without a file.

    Raises:
        typer.BadParameter: there is none.
    """
    if file is None:
        return None
    try:
        credential = (sys.stdin.read() if str(file) == "-" else file.read_text()).strip()
    except (OSError, UnicodeDecodeError):
        credential = ""
    if not re.fullmatch(r"[!-~]+", credential):  # an HTTP library would quote what it cannot send
        raise typer.BadParameter("neither - nor a file that holds one credential", param_hint="--token")
    return credential
