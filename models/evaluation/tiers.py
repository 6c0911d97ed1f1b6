"""What each tier's answers are like: right, calibrated, like the teacher's, and how long one takes.

Knows answers and labels; makes no student.
"""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from models.attacks.oracle import Metered, Oracle
from models.data import LabelledImages
from models.metrics import agreement, calibration_error, l1_distance, reliability, top1


@dataclass(frozen=True)
class Tier:
    """One tier on the test images. `agreement` and `l1` are with the teacher, where the evaluation has one.

    `gains` says by how many points of top-1 it is above each other tier, with the standard error of the difference.
    """

    name: str
    top1: float
    standard_error: float
    nll: float
    ece: float
    mean_confidence: float
    agreement: float | None
    l1: float | None
    gains: dict[str, tuple[float, float]]
    ms_per_query: float
    repeats_alike: bool
    reliability: list[dict[str, float]]


def measure(doors: dict[str, Oracle], test: LabelledImages) -> list[Tier]:
    """Every tier of `doors`, by name; the one called "teacher" is what the others are compared with."""
    metered = {name: Metered(oracle) for name, oracle in doors.items()}
    answers = {name: oracle.query(test.images) for name, oracle in metered.items()}
    return [_tier(name, answers, metered[name], test) for name in answers]


def _tier(name: str, answers: dict[str, Tensor], door: Metered, test: LabelledImages) -> Tier:
    logits, teacher = answers[name], answers.get("teacher")
    right = top1(logits, test.labels)
    milliseconds = 1000 * door.seconds / door.queries
    again = door.query(test.images[:256])
    return Tier(
        name,
        top1=right,
        standard_error=(right * (1 - right) / len(test)) ** 0.5,
        nll=F.cross_entropy(logits, test.labels).item(),
        ece=calibration_error(logits, test.labels),
        mean_confidence=F.softmax(logits, 1).amax(1).mean().item(),
        agreement=None if teacher is None else agreement(logits, teacher),
        l1=None if teacher is None else l1_distance(logits, teacher),
        gains={other: _gain(logits, theirs, test.labels) for other, theirs in answers.items() if other != name},
        ms_per_query=milliseconds,
        repeats_alike=torch.allclose(again, logits[:256], atol=1e-4),
        reliability=[asdict(group) for group in reliability(logits, test.labels)],
    )


def _gain(ours: Tensor, theirs: Tensor, labels: Tensor) -> tuple[float, float]:
    """Points of top-1 that one has over the other on the same images, and the standard error of that."""
    difference = 100 * ((ours.argmax(1) == labels).float() - (theirs.argmax(1) == labels).float())
    return difference.mean().item(), (difference.std() / len(labels) ** 0.5).item()
