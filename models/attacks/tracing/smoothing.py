"""The soft labels are pulled towards the uniform distribution before they are learned.

Hopes that the mark lies in the small probabilities, which it fills up.
"""

import torch
from torch.nn import functional as F

from models.attacks.tracing.leak import Leak, Suspect


def evade(leak: Leak, *, share: float = 0.1, temperature: float = 4.0) -> Suspect:
    """Distillation of answers of which `share` is spread over all classes."""
    told = F.softmax(leak.mean / temperature, 1)
    spread = (1 - share) * told + share / told.shape[1]
    return leak.suspect(leak.student(temperature * torch.log(spread), temperature=temperature))
