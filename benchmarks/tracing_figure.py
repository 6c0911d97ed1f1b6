"""Draws how well a leaked key is found again: over the number of queries, and after each way to hide it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.plots import drawn

NEEDED = 6.18  # the score at which one key among 1,000 has a corrected p-value of 1e-6


def draw(rows: Sequence[Mapping[str, Any]], path: Path, *, asked: int) -> None:
    """Scores of the right key, on the left without evasion, on the right after `asked` queries, as an SVG file.

    Lines are means over students of one strength, bands their range; each dot is one student, of colluding keys the
    one with the highest score.
    """
    with drawn(path, 9, 3.6, ncols=2) as (left, right):
        _power(left, [row for row in rows if row["evasion"] == "plain" and row["strength"]])
        _evasions(right, rows, asked)
        for line in (left.axhline, right.axvline):
            line(NEEDED, color="#333333", lw=0.8, ls="--")


def _power(axes: Any, rows: Sequence[Mapping[str, Any]]) -> None:  # noqa: ANN401 - matplotlib's
    for strength in sorted({row["strength"] for row in rows}):
        found = [row["power"] for row in rows if row["strength"] == strength]
        queries = sorted(int(count) for count in found[0])
        scores = np.array([[one[str(count)]["scores"][0] for count in queries] for one in found])
        axes.plot(queries, scores.mean(axis=0), marker="o", label=f"strength {strength:g}")
        axes.fill_between(queries, scores.min(axis=0), scores.max(axis=0), alpha=0.15)
    axes.set(xscale="log", xlabel="queries", ylabel="score of the right key")
    axes.legend(fontsize=7)


def _evasions(axes: Any, rows: Sequence[Mapping[str, Any]], asked: int) -> None:  # noqa: ANN401 - matplotlib's
    marked = [row for row in rows if row["strength"]]
    kinds = list(dict.fromkeys((row["evasion"], row["strength"]) for row in marked))
    for row in marked:
        place = kinds.index((row["evasion"], row["strength"]))
        axes.plot(max(row["power"][str(asked)]["scores"]), place, "o", ms=4, color="#5b8db8")
    axes.set_yticks(range(len(kinds)), [f"{evasion}, strength {strength:g}" for evasion, strength in kinds], fontsize=7)
    axes.invert_yaxis()
    axes.set(xlabel=f"score of the right key, {asked:,} queries")
