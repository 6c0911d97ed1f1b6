"""Flattening: the answer's confidence in its top-1 is kept, the rest spread evenly.

Hopes that the confidence is true, and throws every false peak away with the dark knowledge.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from models.attacks.attacker import Attacker, as_logits


def steal(attacker: Attacker) -> nn.Module:
    """Distillation of confidences."""
    answers = attacker.oracle.query(attacker.images)
    return attacker.distil(recover(answers), answers)


def recover(answers: Tensor) -> Tensor:
    """Log-probabilities [N, K]: the top-1 as in softmax(answers), all others alike."""
    classes = answers.shape[1]
    confidence, top = answers.softmax(1).max(1, keepdim=True)
    chosen = F.one_hot(top.squeeze(1), classes).bool()
    return as_logits(confidence.where(chosen, (1 - confidence) / (classes - 1)))
