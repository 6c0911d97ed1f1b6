"""Runs every arm with every student and seed, and keeps each result on disk as soon as it is there.

Knows the order of the work. Processes with other seeds or other arms may share a folder;
a last run over all of them finds every row there and writes the report.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from lightning_fabric import Fabric
from torch import nn

from models.attacks.attacker import Trainer
from models.data import LabelledImages
from models.evaluation.arms import Arm
from models.evaluation.kept import kept, place
from models.metrics import top1
from models.training.loop import Recipe


@dataclass(frozen=True)
class Row:
    """One student's result: accuracies in [0, 1], what it asked, and how long answers and everything took."""

    group: str
    name: str
    holdings: str
    share: float
    student: str
    seed: int
    test_top1: float
    validation_top1: float
    queries: int
    query_seconds: float
    seconds: float


@dataclass(frozen=True)
class Setting:
    """What all rows of a study share; `subject` says which model and images, so that no other study's rows count."""

    subject: dict[str, object]
    recipe: Recipe
    students: dict[str, Callable[[], nn.Module]]
    seeds: Sequence[int]


def run(
    arms: Sequence[Arm],
    setting: Setting,
    fabric: Fabric,
    folder: Path,
    *,
    validation: LabelledImages,
    test: LabelledImages,
    told: Callable[[Row, int, int], None],
) -> list[Row]:
    """The rows of all arms × students × seeds; those that lie in `folder` are not trained again.

    The last epoch is tested, once. `told` hears of every row, its number and the number of all.
    """
    wanted = [(seed, student, arm) for seed in setting.seeds for student in setting.students for arm in arms]
    rows: list[Row] = []
    for number, (seed, student, arm) in enumerate(wanted, 1):
        recipe = replace(setting.recipe, seed=seed)
        depends = [arm.group, arm.name, arm.holdings, arm.share, arm.depends]
        path = place(folder, [setting.subject, asdict(recipe), student, depends])
        trainer = Trainer(fabric, setting.students[student], recipe, arm.name, path.with_suffix(".pt"))
        rows.append(kept(path, Row, partial(_row, arm, student, trainer, validation, test), arm.name))
        told(rows[-1], number, len(wanted))
    return rows


def _row(arm: Arm, student: str, trainer: Trainer, validation: LabelledImages, test: LabelledImages) -> Row:
    started = time.monotonic()
    model, door = arm.learn(trainer)
    model.eval()
    return Row(
        arm.group,
        arm.name,
        arm.holdings,
        arm.share,
        student,
        trainer.recipe.seed,
        test_top1=round(top1(trainer.predict(model, test.images), test.labels), 4),
        validation_top1=round(top1(trainer.predict(model, validation.images), validation.labels), 4),
        queries=door.queries,
        query_seconds=round(door.seconds, 2),
        seconds=round(time.monotonic() - started, 1),
    )
