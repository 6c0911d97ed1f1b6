"""The documentation's figures as SVG files: one look, and the same bytes for the same data."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.typing import RcKeyType

DOCS = Path(__file__).parent.parent / "docs"
LOOK: dict[RcKeyType, Any] = {"svg.hashsalt": "sdb", "axes.spines.top": False, "axes.spines.right": False}


@contextmanager
def drawn(path: Path, width: float, height: float, **grid: Any) -> Iterator[Any]:  # noqa: ANN401 - as matplotlib has it
    """The axes of a figure of so many inches (`grid` as for `Figure.subplots`), written when the body ends."""
    with mpl.rc_context(LOOK):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure.subplots(**grid)
        figure.savefig(path, format="svg", metadata={"Date": None})
