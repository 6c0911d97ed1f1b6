"""The protection report of one model: every arm run, every tier measured, every promise judged.

Knows the order of the work; writes `report.json` and `report.html` into its folder, beside the rows it goes on from.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from models.backbones import Classifier, build
from models.bundles import InputSpec, write_atomically
from models.data import DataError, LabelledImages, check_classes, check_same_classes, load
from models.environment import environment
from models.evaluation import tiers
from models.evaluation.arms import Holdings, arms
from models.evaluation.kept import kept, place
from models.evaluation.lock_summary import LockReport, lock_report, lock_verdicts
from models.evaluation.lock_trials import Effort, obstacles
from models.evaluation.locked import Locked
from models.evaluation.locks import LockRow, measure, thief_of
from models.evaluation.report import render
from models.evaluation.study import Row, Setting, run
from models.evaluation.subject import Subject
from models.evaluation.summary import figures, verdicts
from models.evaluation.weights import Weights
from models.training.loop import Recipe

LEARNING_RATE = 0.1
VALIDATION_IMAGES = 2000


@dataclass(frozen=True)
class Images:
    """The attacker's images, those it chooses by, and those that everything is tested on; `name` says of what set."""

    name: str
    own: LabelledImages
    validation: LabelledImages
    test: LabelledImages
    foreign: Tensor | None

    @property
    def identity(self) -> str:
        """Tells these images, all but the foreign ones, from any others."""
        sets = (self.own, self.validation, self.test)
        return _digest(*(part for each in sets for part in (each.images, each.labels)))

    @property
    def foreign_identity(self) -> str:
        """Tells the foreign images from any others."""
        return "" if self.foreign is None else _digest(self.foreign)


def read_images(data: Path, foreign: Path | None, spec: InputSpec, classes: Sequence[str], count: int) -> Images:
    """`count` training images of `data` and as many of `foreign`; a tenth of the training split is held out.

    Raises:
        DataError: a set is missing, or has other classes than the model.
    """
    check_classes(data)
    everything = load(data, "train", spec.height, spec.width)
    check_same_classes(data, everything.classes, classes)
    rest, held_out = everything.split(None, seed=0)  # as `sdb wrap` holds out
    validation = held_out.subset(torch.arange(min(VALIDATION_IMAGES, len(held_out))))
    own = rest.subset(torch.arange(min(count, len(rest))))
    others = None
    if foreign is not None:
        others = load(foreign, "train", spec.height, spec.width).images
        order = torch.randperm(len(others), generator=torch.Generator().manual_seed(0))
        others = others[order[: len(own)]]
    test = load(data, "test", spec.height, spec.width)
    return Images(data.name, own, validation, test, others)


def evaluate(
    subject: Subject,
    images: Images,
    fabric: Fabric,
    folder: Path,
    *,
    students: Sequence[str],
    epochs: int,
    seeds: Sequence[int],
    chosen: str | None,
    command: str,
    told: Callable[[Row, int, int], None],
    effort: Effort,
    told_of_lock: Callable[[LockRow, int, int], None],
) -> dict[str, Any]:
    """The report as a JSON document; rows that lie in `folder` already are not made again.

    The arms that match `chosen`, or by default those that suit the subject; and `effort` against its lock, if any.

    Raises:
        DataError: no arm matches `chosen`.
        Interrupted: Ctrl-C.
    """
    chosen = chosen or subject.default_arms
    holdings = Holdings(images.own, images.foreign, images.foreign_identity)
    wanted = arms(subject.doors, holdings, chosen=chosen, epochs=epochs)
    if not wanted:
        raise DataError(f"no arm is called {chosen!r}")
    facts = {"model": subject.name, "version": subject.version, "door": subject.door, "data": images.name}
    named = {
        "teacher": subject.doors.teacher,
        "teacher, as many passes": subject.averaged_teacher,
        "authorised": subject.doors.authorised,
        "public": subject.doors.public,
    }
    measured = tiers.measure({name: door for name, door in named.items() if door is not None}, images.test)
    machine = environment()
    setting = Setting(
        subject={**facts, "images": images.identity, "input": subject.input.model_dump(), "identity": subject.identity},
        recipe=Recipe(epochs, LEARNING_RATE),
        students={name: _maker(name, subject) for name in students},
        seeds=seeds,
    )
    results, locked = folder / "rows", subject.locked
    lock = None if locked is None else _tried(locked, images, setting, results, effort, told_of_lock)
    rows = run(wanted, setting, fabric, results, validation=images.validation, test=images.test, told=told)
    stolen = None
    if (read := subject.read_weights) is not None:
        path = place(results, ["weights", setting.subject, subject.doors.teacher_identity])
        stolen = kept(path, Weights, partial(read, images.own, images.test), "reading the stolen weights")
    document: dict[str, Any] = {
        "model": {
            "name": subject.name,
            "version": subject.version,
            "architecture": subject.architecture,
            "classes": len(subject.classes),
        },
        "door": subject.door,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "environment": machine,
        "setting": {
            **facts,
            "images": len(images.own),
            "validation images": len(images.validation),
            "test images": len(images.test),
            "epochs": epochs,
            "students": list(students),
            "seeds": list(seeds),
            "arms": chosen,
        },
        "verdicts": [
            asdict(verdict)
            for verdict in (
                *([] if lock is None else lock_verdicts(lock)),
                *verdicts(rows, measured, stolen, len(subject.classes)),
            )
        ],
        **({} if lock is None else {"lock": asdict(lock)}),
        "tiers": [asdict(tier) for tier in measured],
        "weights": None if stolen is None else asdict(stolen),
        "figures": [asdict(figure) for figure in figures(rows)],
        "rows": [asdict(row) for row in rows],
        "left_out": _left_out(subject, images, lock, chosen),
        "seconds": round(sum(row.seconds for row in rows) + (0 if lock is None else lock.seconds)),
    }
    write_atomically(folder / "report.json", orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n")
    write_atomically(folder / "report.html", render(document).encode())
    return document


def _tried(  # noqa: PLR0917 - all that `locks.measure` and its report want to know
    locked: Locked,
    images: Images,
    setting: Setting,
    folder: Path,
    effort: Effort,
    told: Callable[[LockRow, int, int], None],
) -> LockReport:
    """What came of all attacks on a lock, by one thief for each seed."""
    thieves = [thief_of(locked, images.own, effort.budget, seed) for seed in setting.seeds]
    rows = measure(locked, thieves, setting.subject, folder, test=images.test, effort=effort, told=told)
    return lock_report(locked, rows, effort, images.test, obstacles(thieves[0]))


def _left_out(subject: Subject, images: Images, lock: LockReport | None, chosen: str) -> list[str]:
    """What the report cannot tell, and why."""
    found = [*subject.left_out, *([] if lock is None else lock.left_out)]
    if images.foreign is None:
        found.append("out-of-distribution images: no --foreign")
    if chosen != "*":
        found.append(f"every arm that does not match {chosen}: no promise is judged by all of them")
    return found


def _maker(name: str, subject: Subject) -> Callable[[], nn.Module]:
    """Draws an untrained student that normalises as the model does.

    Raises:
        DataError: no architecture has this name.
    """

    def new() -> nn.Module:
        return Classifier(build(name, len(subject.classes)), subject.input.mean, subject.input.std)

    try:
        new()
    except ValueError as error:
        raise DataError(str(error)) from error
    return new


def _digest(*parts: Tensor) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.contiguous().numpy().tobytes())
    return digest.hexdigest()
