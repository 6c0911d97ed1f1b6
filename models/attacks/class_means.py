"""The averager student (ICLR 2023 Tiny Papers): every image is taught the mean answer of its class.

Hopes that what is false differs from image to image and cancels, while the likeness between classes stays.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from models.attacks.attacker import Attacker


def steal(attacker: Attacker) -> nn.Module:
    """Distillation of class means; the published one takes them over a batch, this one over all images."""
    answers = attacker.oracle.query(attacker.images)
    return attacker.distil(recover(answers, attacker.labels_or(answers)), answers)


def recover(answers: Tensor, labels: Tensor) -> Tensor:
    """For each row the mean of the answers [N, K] that have its label int64 [N]: logits [N, K]."""
    members = F.one_hot(labels, answers.shape[1]).to(answers.dtype)
    means = members.T @ answers / members.sum(0).clamp_min(1).unsqueeze(1)
    return means[labels]
