"""Draws the power of tracing: the score of the right key over the number of queries, one line for each strength."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.plots import drawn

NEEDED = 6.18  # the score at which one key among 1,000 has a corrected p-value of 1e-6


def draw(rows: Sequence[Mapping[str, Any]], path: Path, setting: Mapping[str, Any]) -> None:
    """The rows of one setting without evasion, means and ranges over students and seeds, as an SVG file."""
    plain = [row for row in rows if setting.items() <= row.items() and row["evasion"] == "plain"]
    strengths = sorted({row["strength"] for row in plain})
    accuracy = [[row["top1"] for row in plain if row["strength"] == strength] for strength in strengths]
    with drawn(path, 8, 3, ncols=2) as (left, right):
        for strength in (strength for strength in strengths if strength):
            found = [row["power"] for row in plain if row["strength"] == strength]
            queries = sorted(int(count) for count in found[0])
            scores = np.array([[one[str(count)]["scores"][0] for count in queries] for one in found])
            left.plot(queries, scores.mean(axis=0), marker="o", label=f"strength {strength:g}")
            left.fill_between(queries, scores.min(axis=0), scores.max(axis=0), alpha=0.15)
        left.axhline(NEEDED, color="#333333", lw=0.8, ls="--")
        left.set(xscale="log", xlabel="queries", ylabel="score of the right key")
        left.legend(fontsize=7)
        right.errorbar(strengths, [np.mean(one) for one in accuracy], [np.std(one) for one in accuracy], marker="o")
        right.set(xlabel="strength", ylabel="student's top-1, %")
