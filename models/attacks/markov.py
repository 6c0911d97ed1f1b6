"""Markov distillation (ECCV 2024; from a secondary source, the paper was not to be had).

The softened answers pass through a row-stochastic matrix of the label's class, learned along with the student; it
hopes that the matrices unmix what the teacher was trained to mix.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.attacks.attacker import Attacker, as_logits
from models.training.loop import Batch
from models.views import random_views

FIDELITY = 0.9  # the diagonal of the matrices at the start
PACE = 10.0  # a network's learning rate is too low for the matrices: they are as many times their parameters


def steal(attacker: Attacker, *, temperature: float = 4.0, alpha: float = 0.9) -> nn.Module:
    """α parts KL(p̃ ‖ student), 1−α parts labels, and the cross-entropy of p̃ itself, by which the matrices learn."""
    answers = attacker.oracle.query(attacker.images)
    powers = (answers / temperature).softmax(1)
    unmixer = Unmixer(attacker.trainer.student(), answers.shape[1])

    def step(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        logits = model(random_views(batch.images, batch.generator))
        target = as_logits(unmixer.unmixed(powers[batch.rows].to(logits.device), batch.labels))
        divergence = F.kl_div(logits.log_softmax(1), target, reduction="batchmean", log_target=True)
        return {
            "kl": alpha * divergence,
            "ce": (1 - alpha) * F.cross_entropy(logits, batch.labels),
            "target": F.nll_loss(target, batch.labels),
        }

    attacker.trainer.fit(attacker.images, attacker.labels_or(answers), step, unmixer)
    return unmixer.student


class Unmixer(nn.Module):
    """A student and, so that one optimiser trains both, one K × K matrix of logits per class."""

    def __init__(self, student: nn.Module, classes: int) -> None:
        super().__init__()
        self.student = student
        diagonal = math.log(FIDELITY / (1 - FIDELITY) * (classes - 1))
        self.matrices = nn.Parameter(diagonal / PACE * torch.eye(classes).repeat(classes, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """The student's logits."""
        logits: Tensor = self.student(images)
        return logits

    def unmixed(self, powers: Tensor, labels: Tensor) -> Tensor:
        """p̃ = p · M_y of probabilities [B, K] and labels int64 [B]: probabilities [B, K]."""
        rows = (PACE * self.matrices[labels]).softmax(2)
        return torch.bmm(powers.unsqueeze(1), rows).squeeze(1)
