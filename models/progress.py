"""The bar of a long search or of many files, on a terminal's standard error; it goes when the work ends."""

from collections.abc import Iterable
from typing import TypeVar

from rich.console import Console
from rich.progress import track

Each = TypeVar("Each")


def followed(work: Iterable[Each], title: str, total: int | None = None) -> Iterable[Each]:
    """What is to be done, one after the other, with a bar of how much is left: of `total`, or of its own number."""
    console = Console(stderr=True)
    return track(work, title, total=total, console=console, transient=True, disable=not console.is_terminal)
