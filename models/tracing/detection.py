"""Whose mark a suspect repeats: a score for each key, and how likely an innocent key's would be as high.

Knows answers, the model's own unmarked logits and marks; knows neither where the suspect is nor how it was made. The
paper looks for the peak of a periodogram, as one who knows no more than the projection would; the owner knows all
tones and what the model itself says of every image, and so correlates (a matched filter).

The p-values assume nothing of the suspect. The signs of a key that had no part in it are fair coins that it never saw,
so that given everything else the score is a weighted sum of coins, whose tail is bounded whatever the weights are.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sdb_client.fitting import Pixels

from models.tracing.mark import TONES, Mark
from models.tracing.waves import Floats, waves

COINS = 0.25 / (0.5 * math.erfc(1))  # 3.178: c in P(score ≥ z) ≤ c·P(normal ≥ z), Bentkus & Dzindzalieta 2015
SOFTENED = np.float32(3)  # the temperature at which answers are compared, by their standard deviation
LEAST = 1e-9  # of a probability


@dataclass(frozen=True)
class Evidence:
    """One key. `score` has mean 0 and standard deviation 1 for a key that had no part in the suspect.

    `p_value` is at least the probability that this innocent key scores as much, `corrected` that any one of those that
    were tested together does (Bonferroni: marks need not be independent).
    """

    key_id: str
    score: float
    p_value: float
    corrected: float


def trace(
    answers: Floats | NDArray[np.int64],
    clean: Floats,
    pixels: Pixels,
    marks: Mapping[str, Mark],
    references: Sequence[Floats] = (),
) -> list[Evidence]:
    """The evidence against each key of `marks`, strongest first.

    `answers` are the suspect's: probabilities float32 [N, K], or its top-1 alone, int64 [N]; `clean` are the model's
    own unmarked logits float32 [N, K], `pixels` uint8 [N, H, W, 3] the images. `references` are probabilities [N, K]
    of students that learned from unmarked answers, as the suspect may have: what they do as it does is no mark.
    """
    unexplained = _unexplained(answers, clean, references)
    by_class = np.eye(clean.shape[1], dtype=np.float32)[clean.argmax(axis=1)].T @ unexplained
    low = waves(pixels)
    scores = {key_id: _score(mark, low, unexplained, by_class) for key_id, mark in marks.items()}
    found = [_evidence(key_id, score, len(marks)) for key_id, score in scores.items()]
    return sorted(found, key=lambda evidence: -evidence.score)


def tail(score: float) -> float:
    """An upper bound of the probability that ±1 coins, weighted by numbers whose squares sum to 1, reach `score`.

    c·P(normal ≥ score) with c = 1 / (4·P(normal ≥ √2)), the best constant there is (Bentkus & Dzindzalieta, "A tight
    Gaussian bound for weighted sums of Rademacher random variables", Bernoulli 21, 2015, theorem 1.1).
    """
    return min(1.0, COINS * 0.5 * math.erfc(score / math.sqrt(2)))


def _evidence(key_id: str, score: float, tested: int) -> Evidence:
    p_value = tail(score)
    return Evidence(key_id, score, p_value, min(1.0, tested * p_value))


def _score(mark: Mark, low: Floats, unexplained: Floats, by_class: Floats) -> float:
    """The sum over tones and groups of what goes with them, each kind weighing as much as the other."""
    tones = mark.tones(low).T @ unexplained
    groups = mark.groups.T @ by_class
    both = _aligned(tones, mark.signs[:TONES]) + _aligned(groups, mark.signs[TONES:])
    return both / math.sqrt(2)


def _aligned(shares: Floats, signs: Floats) -> float:
    size = float(np.linalg.norm(shares))
    return float((shares * signs).sum()) / size if size else 0.0


def _unexplained(answers: Floats | NDArray[np.int64], clean: Floats, references: Sequence[Floats]) -> Floats:
    """What neither the model nor the references say, [N, K]: of the classes beside the top-1, or of top-1s.

    Only one number is fitted to each of them, for all classes and images together: the more are fitted, the more of a
    mark is fitted away (docs/experiments.md). What every image has in common is no mark either.
    """
    if answers.ndim == 1:
        classes = np.eye(clean.shape[1], dtype=np.float32)
        said = classes[answers]
        known = [_softmax(clean), *(classes[one.argmax(axis=1)] for one in references)]
    else:
        top1, least = clean.argmax(axis=1), _least(answers)
        said = _beside(answers, top1, least)
        known = [_beside(one, top1, least) for one in (_softmax(clean), *references)]
    explaining = np.stack([(one - one.mean(axis=0)).ravel() for one in known], axis=1)
    rest: Floats = said - said.mean(axis=0)
    shares = np.linalg.lstsq(explaining, rest.ravel())[0]
    rest -= (explaining @ shares).reshape(rest.shape)
    return rest


def _least(answers: NDArray[np.floating] | NDArray[np.integer]) -> float:
    """What a probability of 0 stands for: half of the smallest other one, where answers are rounded."""
    if (answers > 0).all():
        return LEAST
    return max(LEAST, 0.5 * float(answers[answers > 0].min(initial=1)))


def _beside(answers: NDArray[np.floating] | NDArray[np.integer], top1: NDArray[np.intp], least: float) -> Floats:
    """How the classes beside the top-1, which bears no mark, share what is left: [N, K], 0 for the top-1.

    At a temperature of SOFTENED standard deviations, whatever temperature the answers were given at: high, so that it
    says as much as logits do, and makes less of a class that is hardly possible. None is believed to be below `least`.
    """
    logits: Floats = np.log(np.maximum(answers, np.float32(least)))
    others = np.ones(logits.shape, dtype=np.bool_)
    others[np.arange(len(logits)), top1] = False
    logits -= logits.mean(axis=1, keepdims=True, where=others)
    spread = logits.std(where=others) or np.float32(1)
    return _softmax(np.where(others, logits / (SOFTENED * spread), np.float32(-np.inf)))


def _softmax(logits: Floats) -> Floats:
    powers: Floats = np.exp(logits - logits.max(axis=1, keepdims=True))
    powers /= powers.sum(axis=1, keepdims=True)
    return powers
