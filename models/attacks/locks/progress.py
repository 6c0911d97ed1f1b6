"""The bar of a long search, on a terminal's standard error; it goes when the search ends."""

from collections.abc import Iterable
from typing import TypeVar

from rich.console import Console
from rich.progress import track

Try = TypeVar("Try")


def followed(tries: Iterable[Try], title: str, total: int | None = None) -> Iterable[Try]:
    """The tries themselves, one after the other, with a bar of how many are left: of `total`, or of their number."""
    console = Console(stderr=True)
    return track(tries, title, total=total, console=console, transient=True, disable=not console.is_terminal)
