"""Readings of a lock to figures, and what a lock promises against what was measured.

Knows arithmetic and the promises; draws nothing.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import torch

from models.data import LabelledImages
from models.evaluation.lock_trials import ATTACK, REFERENCE, WRONG, Effort
from models.evaluation.locked import Locked
from models.evaluation.locks import LockRow, Reading
from models.evaluation.summary import Verdict

ABOVE_CHANCE = 5.0  # points: what a thief may have more than who guesses
LOST = 3.0  # points: what the lock may cost who has the key


@dataclass(frozen=True)
class LockFigure:
    """All readings of one trial, over keys and seeds: top-1 in percent, raw or relabelled, whichever is higher.

    `as_answered` is the best reading's raw top-1, `recovered` the share of each step's entries that its key has right.
    `cuts` has the highest top-1 with a public network's layers up to each one, by its name.
    """

    kind: str
    name: str
    step: str
    wrong: int
    tried: int
    mean: float
    percentile_95: float
    highest: float
    as_answered: float
    recovered: dict[str, float] | None
    cuts: dict[str, float]
    seconds: float


@dataclass(frozen=True)
class LockReport:
    """A lock, how hard it was tried, and what came of it; top-1 in [0, 1] of the plain model if it is known.

    `chance` is the top-1 of who always says the most frequent class: one in K where all are as frequent.
    """

    steps: tuple[str, ...]
    block: int
    method: str
    effort: Effort
    chance: float
    plain: float | None
    figures: list[LockFigure]
    left_out: list[str]
    seconds: float


def lock_report(
    locked: Locked, rows: Sequence[LockRow], effort: Effort, test: LabelledImages, left_out: list[str]
) -> LockReport:
    """The rows of a lock as the report tells them; `left_out` says what could not be tried."""
    chance = float(torch.bincount(test.labels).max()) / len(test)
    scheme, seconds = locked.scheme, sum(row.seconds for row in rows)
    return LockReport(
        scheme.steps, scheme.block, locked.method, effort, chance, locked.plain, lock_figures(rows), left_out, seconds
    )


def lock_figures(rows: Iterable[LockRow]) -> list[LockFigure]:
    """One figure per trial, in the order of the rows."""
    groups: dict[tuple[str, str], list[LockRow]] = {}
    for row in rows:
        groups.setdefault((row.kind, row.name), []).append(row)
    return [_figure(members) for members in groups.values()]


def lock_verdicts(report: LockReport) -> list[Verdict]:
    """Every promise of a lock that can be judged."""
    right = [figure for figure in report.figures if figure.kind == REFERENCE]
    return [
        *(_about_right_key(figure, report.plain) for figure in right if report.plain is not None),
        *(_about_chance(figure, report.chance) for figure in report.figures if figure.kind in {WRONG, ATTACK}),
    ]


def _figure(rows: Sequence[LockRow]) -> LockFigure:
    readings = [reading for row in rows for reading in row.readings]
    found = [100 * reading.best for reading in readings]
    best = max(readings, key=_best)
    return LockFigure(
        rows[0].kind,
        rows[0].name,
        rows[0].step,
        rows[0].wrong,
        tried=len(readings),
        mean=fmean(found),
        percentile_95=float(np.percentile(found, 95)),
        highest=100 * best.best,
        as_answered=100 * best.top1,
        recovered=best.recovered,
        cuts=_cuts(readings),
        seconds=fmean(row.seconds for row in rows),
    )


def _best(reading: Reading) -> float:
    return reading.best


def _cuts(readings: Iterable[Reading]) -> dict[str, float]:
    highest: dict[str, float] = {}
    for reading in readings:
        if reading.cut:
            highest[reading.cut] = max(100 * reading.best, highest.get(reading.cut, 0.0))
    return highest


def _about_right_key(right: LockFigure, plain: float) -> Verdict:
    lost = right.as_answered - 100 * plain
    promise = "lock: top-1 with the right key minus the plain model's"
    detail = f"{right.as_answered:.2f} against {100 * plain:.2f} %"
    return Verdict("–", promise, f"≥ −{LOST:g}", round(lost, 2), None, detail, lost >= -LOST)


def _about_chance(figure: LockFigure, chance: float) -> Verdict:
    above = round(figure.highest - 100 * chance, 2)
    many = f"worst of {figure.tried} " if figure.kind == WRONG and figure.tried > 1 else ""
    promise, target = f"lock: {many}{figure.name} minus chance", f"≤ +{ABOVE_CHANCE:g}"
    return Verdict("–", promise, target, above, None, _detail(figure), above <= ABOVE_CHANCE)


def _detail(figure: LockFigure) -> str:
    told = f"{figure.highest:.1f} %"
    if figure.as_answered < figure.highest:
        told += f", {figure.as_answered:.1f} % before the thief renamed the answers"
    if figure.kind == ATTACK and figure.recovered is not None:
        shares = ", ".join(f"{share:.0%} of {step}" for step, share in figure.recovered.items())
        told += f"; entries of the key that are right: {shares}"
    if figure.cuts:
        told += "; public layers up to " + ", ".join(f"{cut} {top1:.1f}" for cut, top1 in figure.cuts.items())
    if figure.kind == WRONG and figure.tried > 1:
        told += f"; mean {figure.mean:.1f}, 95th percentile {figure.percentile_95:.1f} %"
    return told
