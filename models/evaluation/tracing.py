"""Whose mark is in a suspect's answers: every issued key is tested, and judged.

Knows marks and arrays; knows neither where the answers come from nor what becomes of the judgement.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from models.data import Pixels
from models.evaluation.answers_file import Answers
from models.tracing.detection import Evidence, trace
from models.tracing.mark import Mark
from models.tracing.waves import Floats

ACCUSED_BELOW = 1e-6  # corrected: of a million innocent suspects, for one is any key named
DECOYS = 1000  # keys that were never issued, to show what innocent ones score
FEWEST = 100  # images with which the growth of the evidence begins; then twice as many, and so on
FOLLOWED = 5  # innocent keys whose growth is shown beside that of the named ones


@dataclass(frozen=True)
class Marked:
    """Whose answers bear a mark: one key under one generation of the tracing secret."""

    key_id: str
    name: str
    generation: int

    @property
    def label(self) -> str:
        """What tells its mark from every other."""
        return f"{self.key_id}/{self.generation}"


@dataclass(frozen=True)
class IssuedMark(Marked):
    """The mark that answers of our model to the key bear."""

    mark: Mark


@dataclass(frozen=True)
class Finding(Marked):
    """One mark under test. `score` is in standard deviations of an innocent key's.

    `p_value` is at least the probability that this one key, innocent, scores as much; `corrected`, that any one of all
    that were tested does.
    """

    score: float
    p_value: float
    corrected: float
    named: bool


@dataclass(frozen=True)
class Growth:
    """What a mark, by its label, would score if only so many images had been asked."""

    mark: str
    images: int
    score: float
    corrected: float


@dataclass(frozen=True)
class Judgement:
    """What was found: the marks, the most likely first, and what the report draws beside them.

    `verdict` names the keys, or says "no key"; `decoys` are scores of marks that nobody was given.
    """

    verdict: str
    answers: str
    images: int
    findings: list[Finding]
    decoys: list[float]
    growth: list[Growth]
    threshold: float = ACCUSED_BELOW


@dataclass(frozen=True)
class Asked:
    """What was asked and answered, image by image.

    The suspect's `answers` (probabilities float32 [N, K] or top-1 int64 [N]), our own model's unmarked logits `clean`
    float32 [N, K], and the `pixels` uint8 [N, H, W, 3] that our model sees; `references` are probabilities float32
    [N, K] of students that learned from unmarked answers.
    """

    answers: Answers
    clean: Floats
    pixels: Pixels
    references: tuple[Floats, ...] = ()

    def __len__(self) -> int:
        """How many images."""
        return len(self.answers)

    def first(self, count: int) -> "Asked":
        """As if no more had been asked."""
        references = tuple(one[:count] for one in self.references)
        return Asked(self.answers[:count], self.clean[:count], self.pixels[:count], references)

    def trace(self, marks: Mapping[str, Mark]) -> list[Evidence]:
        """The evidence for each of these marks, strongest first."""
        return trace(self.answers, self.clean, self.pixels, marks, self.references)


def find(asked: Asked, issued: Sequence[IssuedMark]) -> list[Finding]:
    """Every issued mark, the most likely first."""
    known = {one.label: one for one in issued}
    findings = []
    for one in asked.trace({label: one.mark for label, one in known.items()}):
        key, numbers = known[one.key_id], (one.score, one.p_value, one.corrected)
        findings.append(Finding(key.key_id, key.name, key.generation, *numbers, one.corrected < ACCUSED_BELOW))
    return findings


def judge(asked: Asked, issued: Sequence[IssuedMark]) -> Judgement:
    """All findings, what keys that nobody has would score, and how the evidence grows with the images."""
    findings = find(asked, issued)
    shown = findings[: sum(finding.named for finding in findings) + FOLLOWED]
    return Judgement(
        verdict=_verdict(findings),
        answers="top-1" if asked.answers.ndim == 1 else "probabilities",
        images=len(asked),
        findings=findings,
        decoys=_decoys(asked),
        growth=_growth(asked, issued, shown),
    )


def _verdict(findings: Sequence[Finding]) -> str:
    keys = dict.fromkeys(f"{one.key_id} ({one.name})" for one in findings if one.named)
    return " and ".join(keys) or "no key"


def _decoys(asked: Asked) -> list[float]:
    """The scores of marks of a secret that everybody may know and nobody was given."""
    secret = hashlib.sha256(b"sdb/trace/decoys").digest()
    marks = {str(number): Mark.derive(secret, f"decoy {number}", asked.clean.shape[1]) for number in range(DECOYS)}
    return sorted(one.score for one in asked.trace(marks))


def _growth(asked: Asked, issued: Sequence[IssuedMark], shown: Sequence[Finding]) -> list[Growth]:
    """For the marks that are shown, the corrected p-value after the first 100, 200, 400, … and after all images."""
    marks = {one.label: one.mark for one in issued}
    followed = {finding.label: marks[finding.label] for finding in shown}
    counts = [count for count in (FEWEST << step for step in range(20)) if count < len(asked)] + [len(asked)]
    return [
        Growth(one.key_id, count, one.score, min(1.0, one.p_value * len(issued)))
        for count in counts
        for one in asked.first(count).trace(followed)
    ]
