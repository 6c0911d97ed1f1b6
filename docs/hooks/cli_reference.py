"""The page of the command line, written by Typer from the commands themselves when the site is built."""

import re

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from typer import Context
from typer.cli import get_docs_for_click
from typer.main import get_command

from app.cli import app

PAGE = "reference/cli.md"
EVERYWHERE = re.compile(r"^\* `--(install-completion|show-completion|help)`.*\n", re.MULTILINE)
LISTED_BELOW = re.compile(r"^\*\*Commands\*\*:\n\n(\* .*\n)+\n?", re.MULTILINE)  # with half a sentence each
EMPTY = re.compile(r"^\*\*Options\*\*:\n\n(?!\* )", re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page."""
    files.append(File.generated(config, PAGE, content=page()))
    return files


def page() -> str:
    """All commands with their options, but for the options that each of them has."""
    command = get_command(app)
    text: str = get_docs_for_click(obj=command, ctx=Context(command), name="sdb", title="Command line")
    for superfluous in (EVERYWHERE, LISTED_BELOW, EMPTY):
        text = superfluous.sub("", text)
    return text
