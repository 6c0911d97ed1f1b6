"""How long work shows that it goes on: a bar on a terminal where `tqdm` is installed, otherwise nothing.

Whoever has a bar of their own passes it in: anything that is called like `bar`.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

Bar = Callable[[str, int], AbstractContextManager[Callable[[int], object]]]


@contextmanager
def bar(title: str, total: int) -> Iterator[Callable[[int], object]]:
    """A bar of so many steps; what the body gets is told how many more were done."""
    try:
        from tqdm import tqdm  # noqa: PLC0415 - an extra, and only wanted here
    except ModuleNotFoundError:
        yield lambda _: None
        return
    with tqdm(desc=title, total=total, disable=None) as shown:  # None: only on a terminal
        yield shown.update
