"""The partial Bayes attack (ModelGuard, USENIX Security 2024): the mean clean vector of all pairs that look alike.

The best guess of a clean vector, in squared error, that can be made from an answer alone; it hopes that few clean
vectors share one answer. The published attack draws a million pairs from a copy of the defence, whose secret ours
lacks; it has the pairs that it was given, so it looks farther and, where nothing is near, at the nearest few.
"""

import torch
from torch import Tensor, nn

from models.attacks.attacker import Attacker, as_logits

CHUNK = 500


def steal(attacker: Attacker, *, radius: float = 0.05, neighbours: int = 8) -> nn.Module:
    """Distillation of recovered answers."""
    known, answers = attacker.known(), attacker.oracle.query(attacker.images)
    return attacker.distil(recover(answers, known, radius, neighbours), answers)


def recover(answers: Tensor, clean: Tensor, radius: float, neighbours: int) -> Tensor:
    """Log-probabilities [N, K] for answers [N, K], the first M of which belong to `clean` [M, K].

    The mean of the clean probabilities of the pairs of the same top-1 within L1 distance `radius` in (0, 2); where
    there are none, of the nearest `neighbours` of the same top-1; where there are none either, of the nearest of all.
    """
    probabilities = answers.softmax(1)
    known, wanted = probabilities[: len(clean)], clean.softmax(1)
    means = [_mean(chunk, known, wanted, radius, neighbours) for chunk in torch.split(probabilities, CHUNK)]
    return as_logits(torch.cat(means))


def _mean(asked: Tensor, known: Tensor, wanted: Tensor, radius: float, neighbours: int) -> Tensor:
    other = asked.argmax(1).unsqueeze(1) != known.argmax(1)
    apart = torch.cdist(asked, known, p=1) + 2 * other  # no two vectors of one top-1 are as far apart as 2
    nearest = apart <= apart.kthvalue(min(neighbours, len(known)), dim=1, keepdim=True).values
    nearest &= ~other | other.all(1, keepdim=True)
    within = apart <= radius
    chosen = torch.where(within.any(1, keepdim=True), within, nearest).float()
    return chosen @ wanted / chosen.sum(1, keepdim=True)
