"""Mixing: the target is the answer in part and the label in part, as one distribution.

Hopes that an answer that is half believed still teaches its dark knowledge, and that the label outweighs the rest.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from models.attacks.attacker import Attacker, as_logits


def steal(attacker: Attacker, *, share: float = 0.5) -> nn.Module:
    """Distillation at T = 1 of a mixture of which `share` is the answers'."""
    answers = attacker.oracle.query(attacker.images)
    soft = recover(answers, attacker.labels_or(answers), share)
    return attacker.distil(soft, answers, temperature=1, alpha=1)


def recover(answers: Tensor, labels: Tensor, share: float) -> Tensor:
    """share·softmax(answers) + (1−share)·one-hot(labels): log-probabilities [N, K]."""
    return as_logits(share * answers.softmax(1) + (1 - share) * F.one_hot(labels, answers.shape[1]))
