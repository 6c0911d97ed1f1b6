"""The plots of a lock: what each way in gives, and how right a key must be.

Knows a lock's entry in the document of a report; judges nothing.
"""

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from models.evaluation import drawing
from models.evaluation.drawing import BLUE, GREEN, GREY, INK, RED, Entry

COLOURS = {"reference": GREEN, "wrong key": GREY, "attack": RED}
TOP1 = "top-1 on the test images, %"
LINES = ((BLUE, "o"), (RED, "s"), ("#d9a441", "D"))  # of the steps


def ways_in(lock: Entry) -> str:
    """A bar for every way to ask the stolen network, as high as the highest of its keys and seeds."""
    ways = [figure for figure in lock["figures"] if figure["kind"] in COLOURS]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        places = range(len(ways))
        axes.barh(places, [way["highest"] for way in ways], 0.6, color=[COLOURS[way["kind"]] for way in ways])
        many = [(way["mean"], place) for place, way in enumerate(ways) if way["tried"] > 1 and not way.get("cuts")]
        if many:
            axes.plot(*zip(*many, strict=True), "|", color=INK, ms=8)
        for place, way in enumerate(ways):
            told = drawing.number(way["highest"])
            axes.text(1.01, place, told, transform=axes.get_yaxis_transform(), va="center", fontsize=7)
        for at, style in _levels(lock).values():
            axes.axvline(at, color=INK, lw=0.9, ls=style, zorder=3)
        axes.set_yticks(places, [drawing.short(way["name"]) for way in ways])
        axes.invert_yaxis()
        axes.set(xlim=(0, 100), xlabel="\n".join([TOP1, *_levels(lock)]))

    return drawing.svg(draw, 0.9 + 0.22 * len(ways)) if ways else ""


def near_misses(lock: Entry) -> str:
    """Top-1 over the number of wrong entries, a line for each step; a bar reaches up to the best of several keys."""
    steps: dict[str, list[Entry]] = {}
    for figure in lock["figures"]:
        if figure["kind"] == "near miss":
            steps.setdefault(figure["step"], []).append(figure)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for number, (step, points) in enumerate(steps.items()):
            colour, marker = LINES[number % len(LINES)]
            above = [point["highest"] - point["mean"] for point in points]
            x, y = ([point[name] for point in points] for name in ("wrong", "mean"))
            nothing = [0.0] * len(above)
            axes.errorbar(x, y, yerr=(nothing, above), color=colour, marker=marker, ms=4, lw=1.2, label=step)
        for at, style in _levels(lock).values():
            axes.axhline(at, color=INK, lw=0.9, ls=style, zorder=1)
        counts = _counts(steps)
        axes.set_xscale("log", base=2)
        axes.set_xticks(counts, [str(count) for count in counts])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set(ylim=(0, 100), xlabel="\n".join(["wrong entries of the key", *_levels(lock)]), ylabel=TOP1)
        axes.grid()
        axes.legend(frameon=False)

    return drawing.svg(draw, 3.2) if steps else ""


def _counts(steps: dict[str, list[Entry]]) -> Sequence[int]:
    return sorted({point["wrong"] for points in steps.values() for point in points})


def _levels(lock: Entry) -> dict[str, tuple[float, str]]:
    """Lines across a plot by what they are: where, in percent, and how they look."""
    levels = {"dashed: chance": (100 * lock["chance"], "dashed")}
    for figure in lock["figures"]:
        if figure["kind"] == "reference":
            levels["dotted: the right key"] = (figure["as_answered"], "dotted")
    return levels
