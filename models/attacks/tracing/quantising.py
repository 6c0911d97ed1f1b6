"""The student's weights are rounded to few levels.

Hopes that a small signal is less than half a level.
"""

import torch
from torch import nn

from models.attacks.tracing.leak import Leak, Suspect


def evade(leak: Leak, *, bits: int = 6) -> Suspect:
    """Distillation, then each output channel's weights keep `bits` bits and a scale."""
    return leak.suspect(quantised(leak.honest(), bits))


@torch.no_grad()
def quantised(student: nn.Module, bits: int) -> nn.Module:
    """The same network, changed in place."""
    for layer in student.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            rows = layer.weight.flatten(1)
            step = rows.abs().amax(1).clamp_min(1e-12) / (2 ** (bits - 1) - 1)
            step = step.reshape(-1, *[1] * (layer.weight.dim() - 1))
            layer.weight.copy_((layer.weight / step).round() * step)
    return student
