"""Repeated queries: the same images are asked for again and again, and the answers averaged.

Hopes that the disturbance is drawn anew each time; a deterministic server gives it nothing.
"""

import torch
from torch import Tensor, nn

from models.attacks.attacker import Attacker
from models.attacks.oracle import Oracle


def steal(attacker: Attacker, *, times: int = 4) -> nn.Module:
    """Distillation of the mean of `times` answers."""
    answers = ask(attacker.oracle, attacker.images, times)
    return attacker.distil(answers, answers)


def ask(oracle: Oracle, images: Tensor, times: int) -> Tensor:
    """The mean logits [N, K] of `times` answers to images uint8 [N, 3, H, W]."""
    return torch.stack([oracle.query(images) for _ in range(times)]).mean(0)
