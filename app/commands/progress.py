"""The progress bar of commands, on standard error."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def bar(title: str, total: int, *, passing: bool = False) -> Iterator[Callable[[int], None]]:
    """A bar that is told how many more are done; a `passing` one goes when it is full, and is for terminals only."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    unseen = passing and not console.is_terminal
    with Progress(*columns, console=console, transient=passing, disable=unseen) as progress:
        task = progress.add_task(title, total=total)
        yield lambda more: progress.update(task, advance=more)
