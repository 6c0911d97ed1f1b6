"""Reads every trial on a locked model, and keeps each result on disk as soon as it is there.

Knows the order of the work and how to go on after Ctrl-C, as `study` does for students; compares keys that were found
with the right one.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from models.attacks.locks.keys import recovered
from models.attacks.locks.relabelling import best_relabelling
from models.attacks.locks.thief import Budget, Opened, Thief
from models.data import LabelledImages
from models.evaluation.kept import kept, place
from models.evaluation.lock_trials import Effort, Trial, trials
from models.evaluation.locked import Locked
from models.metrics import top1
from models.progress import followed
from models.training.loop import predict

LABELLED = 1000  # images that a thief has the labels of


@dataclass(frozen=True)
class Reading:
    """What one way to ask gives on the test images: top-1 as answered, and after the thief's best relabelling.

    `recovered` is the share of each step's entries that the key has right, where there is a key; `cut` the last public
    layer, where a public network's first layers were asked.
    """

    top1: float
    relabelled: float
    recovered: dict[str, float] | None
    cut: str = ""

    @property
    def best(self) -> float:
        """The higher of the two: no lock looks strong because it names its answers anew."""
        return max(self.top1, self.relabelled)


@dataclass(frozen=True)
class LockRow:
    """The readings of one trial with one seed."""

    kind: str
    name: str
    seed: int
    step: str
    wrong: int
    readings: list[Reading]
    seconds: float


def measure(
    locked: Locked,
    thieves: Sequence[Thief],
    facts: Mapping[str, object],
    folder: Path,
    *,
    test: LabelledImages,
    effort: Effort,
    told: Callable[[LockRow, int, int], None],
) -> list[LockRow]:
    """The rows of all trials × thieves, of whom there is one for each seed.

    `facts` say which model and images, so that no other's rows count; a trial that draws nothing is made once.

    Raises:
        Interrupted: Ctrl-C; what was finished by then is in `folder`.
    """
    wanted = [
        (trial, thief)
        for trial in trials(locked, effort, thieves[0])
        for thief in (thieves if trial.drawn else thieves[:1])
    ]
    rows: list[LockRow] = []
    for number, (trial, thief) in enumerate(wanted, 1):
        known = [facts, trial.kind, trial.name, trial.depends, thief.seed if trial.drawn else None]
        rows.append(kept(place(folder, known), LockRow, partial(_row, trial, thief, locked, test), trial.name))
        told(rows[-1], number, len(wanted))
    return rows


def thief_of(locked: Locked, own: LabelledImages, budget: Budget, seed: int) -> Thief:
    """Who has stolen the model, and has the first `LABELLED` of the images with their labels."""
    images, labels = own.images[:LABELLED], own.labels[:LABELLED]
    return Thief(locked.network, locked.scheme, images, labels, locked.base, budget, seed)


def _row(trial: Trial, thief: Thief, locked: Locked, test: LabelledImages) -> LockRow:
    started = time.monotonic()
    part = test if trial.images is None else test.subset(torch.arange(min(trial.images, len(test))))
    found = trial.found(thief)
    if trial.keys > 1:  # else the search has a bar of its own
        found = followed(found, trial.name, trial.keys)
    readings = [_reading(opened, thief, locked, part) for opened in found]
    seconds = round(time.monotonic() - started, 1)
    return LockRow(trial.kind, trial.name, thief.seed, trial.step, trial.wrong, readings, seconds)


def _reading(opened: Opened, thief: Thief, locked: Locked, test: LabelledImages) -> Reading:
    network = opened.network or thief.network

    def answered(images: Tensor) -> Tensor:
        return predict(lambda shown: network(opened.front(shown)), images, thief.device)

    relabelling = best_relabelling(answered(thief.images), thief.labels)
    logits = answered(test.images)
    return Reading(
        round(top1(logits, test.labels), 4),
        round(top1(relabelling(logits), test.labels), 4),
        None if opened.key is None else recovered(opened.key, locked.right, locked.scheme),
        opened.cut,
    )
