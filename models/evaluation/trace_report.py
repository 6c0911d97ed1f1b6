"""The report of a trace: one HTML page, plots inside, from the document that `sdb trace` writes.

Knows the page and its plots; tests nothing and judges nothing.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from models.evaluation import drawing
from models.evaluation.drawing import BLUE, GREY, INK, RED, Entry

LISTED = 20  # findings in the table; the JSON has all
LEAST = 1e-40  # what a logarithmic axis shows of less
BINS = 60


def render(document: Entry) -> str:
    """The page; what `document` has is escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(number=drawing.number, probability=probability)
    return environment.get_template("trace_report.html.j2").render(
        document=document,
        named=_named(document),
        listed=document["findings"][:LISTED],
        scores=_scores(document),
        growth=_growth(document),
    )


def probability(value: float) -> str:
    """A probability as people write it: 0.31, 4 · 10⁻⁹."""
    if value >= 0.001:
        return f"{value:.2g}"
    if value < LEAST:
        return f"< 10{_raised(round(math.log10(LEAST)))}"
    digits, _, exponent = f"{value:.1e}".partition("e")
    return f"{digits} · 10{_raised(int(exponent))}"


def _raised(exponent: int) -> str:
    return str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _named(document: Entry) -> list[Entry]:
    return [one for one in document["findings"] if one["named"]]


def _scores(document: Entry) -> str:
    """How the scores of all keys are spread, beside those of keys that nobody has."""
    own = [one["score"] for one in document["findings"]]
    named = [one["score"] for one in _named(document)]
    decoys: list[float] = document["decoys"]
    edges = np.linspace(min([*own, *decoys, -4]), max([*own, *decoys, 4]) + 0.1, BINS + 1).tolist()

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.hist(decoys, edges, density=True, color=GREY, alpha=0.6)
        axes.hist(own, edges, density=True, histtype="step", color=BLUE, lw=1.2)
        places = np.linspace(-4, 4, 161)
        axes.plot(places, np.exp(-(places**2) / 2) / math.sqrt(2 * math.pi), color=INK, lw=0.9, ls="dashed")
        for score in named:
            axes.plot(score, 0, "v", color=RED, ms=7, clip_on=False)
        axes.set(xlabel="score, in standard deviations of an innocent key", ylabel="density")
        looks: dict[str, Entry] = {
            f"{len(own):,} issued marks": {"color": BLUE},
            f"{len(decoys):,} marks that nobody was given": {"color": GREY},
            "standard normal": {"color": INK, "ls": "dashed"},
            "named": {"color": RED, "marker": "v", "ls": "none"},
        }
        drawing.legend(figure, looks, 2)

    return drawing.svg(draw, 2.9)


def _growth(document: Entry) -> str:
    """How unlikely innocence becomes with the images that are asked."""
    named = {f"{one['key_id']}/{one['generation']}" for one in _named(document)}
    lines: dict[str, list[Entry]] = {}
    for point in document["growth"]:
        lines.setdefault(point["mark"], []).append(point)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for mark, points in lines.items():
            _grow(axes, points, RED if mark in named else BLUE)
        axes.axhline(-math.log10(document["threshold"]), color=INK, lw=0.9, ls="dashed")
        axes.grid()
        drawing.logarithmic(axes, "{x:,.0f}")
        axes.set(xlabel="images asked", ylabel="−log₁₀ of the corrected p-value")
        looks: dict[str, Entry] = {
            "named": {"color": RED, "marker": "o"},
            "the next few": {"color": BLUE, "marker": "o"},
            "where a key is named": {"color": INK, "ls": "dashed"},
        }
        drawing.legend(figure, looks, 3)

    return drawing.svg(draw, 2.9)


def _grow(axes: Axes, points: list[Entry], colour: str) -> None:
    images: list[Any] = [point["images"] for point in points]
    axes.plot(
        images, [-math.log10(max(point["corrected"], LEAST)) for point in points], "o-", color=colour, ms=4, lw=1.2
    )
