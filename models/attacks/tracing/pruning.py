"""The smallest weights of the student are set to zero.

Hopes that a small signal sits in small weights.
"""

import torch
from torch import nn

from models.attacks.tracing.leak import Leak, Suspect


def evade(leak: Leak, *, share: float = 0.3) -> Suspect:
    """Distillation, then `share` of the weights of all convolutions and linear layers together are zero."""
    return leak.suspect(pruned(leak.honest(), share))


@torch.no_grad()
def pruned(student: nn.Module, share: float) -> nn.Module:
    """The same network, changed in place."""
    weights = [layer.weight for layer in student.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    sizes = torch.cat([weight.abs().flatten() for weight in weights])
    least = sizes.kthvalue(max(1, round(share * len(sizes)))).values
    for weight in weights:
        weight.mul_(weight.abs() > least)
    return student
