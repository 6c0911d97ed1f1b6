"""High-temperature composition (HTC, ECCV 2022; the formula is recalled, its code was not to be had).

Averages the answers over several high temperatures, which flattens false peaks, and hopes that the order that is left
is true.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.attacks.attacker import Attacker

TEMPERATURES = (5.0, 10.0, 20.0, 40.0)


def steal(attacker: Attacker, *, temperatures: Sequence[float] = TEMPERATURES, alpha: float = 0.9) -> nn.Module:
    """Distillation of the composed answers as they are: they are soft already, so at T = 1."""
    answers = attacker.oracle.query(attacker.images)
    return attacker.distil(recover(answers, temperatures), answers, temperature=1, alpha=alpha)


def recover(answers: Tensor, temperatures: Sequence[float] = TEMPERATURES) -> Tensor:
    """The log of the mean of softmax(answers/τ) over τ: log-probabilities [N, K] of logits [N, K]."""
    softened = torch.stack([(answers / temperature).log_softmax(1) for temperature in temperatures])
    return softened.logsumexp(0).log_softmax(1)
