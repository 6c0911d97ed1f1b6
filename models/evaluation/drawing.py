"""The plots of the report as SVG elements: their look, and the parts that several of them are drawn with.

Knows matplotlib; knows no figure of any evaluation.
"""

import math
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from statistics import median
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter
from matplotlib.typing import RcKeyType

Entry = Mapping[str, Any]

GREEN, RED, BLUE, GREY, INK = "#2a7f62", "#c8553d", "#5b8db8", "#8a8f98", "#333333"
WIDTH = 7.2  # inches
LONGEST = 60  # characters of a name in a plot; the tables have all of it
STYLE: dict[RcKeyType, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # measured by; the reader's browser writes in its own sans-serif
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.titlesize": 9,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "svg.fonttype": "none",
    "svg.hashsalt": "protection report",  # the same document, the same bytes
    "text.parse_math": False,  # a $ in a name is a $
}


@dataclass(frozen=True)
class Line:
    """One line of a dot plot and what is written to the right of it; a heading if it has no values."""

    label: str
    colour: str
    values: Sequence[float] = ()
    error: float | None = None
    told: str = ""


def svg(draw: Callable[[Figure], None], height: float) -> str:
    """The SVG element that `draw` fills, with nothing in it of this moment or of another host."""
    text = StringIO()
    with mpl.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # from the font measured by, not from the reader's
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        draw(figure)
        figure.savefig(text, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    element = text.getvalue()[text.getvalue().index("<svg") :]
    element = re.sub(r"<!--.*?-->\s*", "", element, flags=re.DOTALL).replace("'DejaVu Sans', ", "")
    return re.sub(r'<g id="[\w.]+"', "<g", element)  # plots share a page: another one has a line2d_1 too


def panels(figure: Figure, titles: Iterable[str]) -> dict[str, Axes]:
    """One plot for each title, three side by side."""
    names = list(titles)
    grid = list(figure.subplots(panel_rows(len(names)), min(len(names), 3), squeeze=False).flat)
    for name, axes in zip(names, grid, strict=False):
        axes.set_title(short(name))
        axes.grid()
    for axes in grid[len(names) :]:
        axes.set_axis_off()
    return dict(zip(names, grid, strict=False))


def panel_rows(panels: int) -> int:
    """Rows that so many panels take."""
    return math.ceil(panels / 3)


def dots(axes: Axes, lines: Sequence[Line], lowest: float = -math.inf) -> None:
    """The lines, from above; what is lower than `lowest` is an arrow at it, so that the rest has room."""
    for place, line in enumerate(lines):
        axes.text(1.01, place, line.told, transform=axes.get_yaxis_transform(), va="center", fontsize=7)
        if line.values and max(line.values) < lowest:
            axes.plot(lowest, place, "<", color=line.colour, ms=4)
            continue
        places = [place + (0.6 * ((0.618 * n) % 1 - 0.5) if n else 0.0) for n in range(len(line.values))]
        many = len(places) > 1
        look: dict[str, Any] = {"ms": 2.5, "alpha": 0.5, "mew": 0} if many else {"ms": 4}
        axes.errorbar(line.values, places, xerr=line.error, fmt="o", color=line.colour, elinewidth=1.2, **look)
    axes.set_yticks(range(len(lines)), [short(line.label) for line in lines])
    for tick, line in zip(axes.get_yticklabels(), lines, strict=True):
        tick.set_fontweight("normal" if line.values else "bold")
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid()


def legend(figure: Figure, looks: Mapping[str, Entry], columns: int) -> None:
    """Below the plots, the lines by name, as each looks."""
    marks = [Line2D([], [], label=short(name), lw=1.2, ms=4, **look) for name, look in looks.items()]
    figure.legend(handles=marks, loc="outside lower center", ncols=columns, frameon=False)


def logarithmic(axes: Axes, form: str) -> None:
    """Plain numbers at 1, 2 and 5 on a logarithmic x axis."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter(form))
    axes.xaxis.set_minor_locator(NullLocator())


def short(name: str) -> str:
    """A name that fits beside a plot."""
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"


def number(value: float | None, digits: int = 1) -> str:
    """A number as people write it."""
    return "–" if value is None else f"{value:,.{digits}f}".replace("-", "−")


def span(values: Sequence[float], digits: int) -> str:
    """The median of some numbers, and their range if there are several."""
    told = number(median(values), digits)
    ends = f" ({number(min(values), digits)} to {number(max(values), digits)})"
    return told + (ends if len(values) > 1 else "")
