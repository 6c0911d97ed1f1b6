"""The true label is mixed into each soft label before it is learned.

Hopes that the mark drowns in what is known to be right.
"""

import torch
from torch.nn import functional as F

from models.attacks.tracing.leak import Leak, Suspect


def evade(leak: Leak, *, share: float = 0.5, temperature: float = 4.0) -> Suspect:
    """Distillation of `share` parts true labels and 1−`share` parts answers, mixed at `temperature`."""
    told = F.softmax(leak.mean / temperature, 1)
    mixed = share * F.one_hot(leak.labels, told.shape[1]) + (1 - share) * told
    return leak.suspect(leak.student(temperature * torch.log(mixed), temperature=temperature))
