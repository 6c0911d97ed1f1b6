"""The skeptical student (Kundu et al., NeurIPS 2021; losses of `train_kd_to_SD.py` in ksouvik52/Skeptical2021).

It distils into a shallow classifier only and learns its own answer from labels, hoping that the layers below still
take what is true and that the head is spared what is false.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.attacks.attacker import Attacker
from models.losses import distillation, student_loss
from models.training.loop import Batch
from models.views import random_views

DELAY = 0.1  # share of the training without distillation; published: 20 of 180 epochs


def steal(attacker: Attacker, *, temperature: float = 4.0, alpha: float = 0.9) -> nn.Module:
    """The student without its two auxiliary classifiers; soft labels as usual where nothing convolves."""
    answers = attacker.oracle.query(attacker.images)
    student = attacker.trainer.student()
    layers = [module for module in student.modules() if isinstance(module, nn.Conv2d)]
    if not layers:
        return attacker.distil(answers, answers, temperature=temperature, alpha=alpha)

    def step(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        own, deep, shallow = model(random_views(batch.images, batch.generator))
        losses = {"own": F.cross_entropy(own, batch.labels)}
        if batch.progress < DELAY:
            return losses
        soft = answers[batch.rows].to(own.device)
        told = student_loss(shallow, soft, batch.labels, temperature=temperature, alpha=alpha)
        # The published term lacks the factor T², which `distillation` brings.
        self_taught = 0.3 * distillation(deep, own, temperature) / temperature**2
        return losses | {"told": told, "self": self_taught + 0.7 * F.cross_entropy(deep, batch.labels)}

    watched = layers[3 * len(layers) // 4], layers[len(layers) // 2]
    skeptic = Skeptic(student, watched, answers.shape[1])
    attacker.trainer.fit(attacker.images, attacker.labels_or(answers), step, skeptic)
    return student


class Skeptic(nn.Module):
    """A student with a linear classifier on the pooled features of some of its convolutions."""

    def __init__(self, student: nn.Module, layers: tuple[nn.Conv2d, ...], classes: int) -> None:
        super().__init__()
        self.student = student
        self.heads = nn.ModuleList(_head(layer.out_channels, classes) for layer in layers)
        self._layers = layers  # in a tuple, so that the state holds their weights once

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] → logits [B, K]; in training [1 + heads, B, K], the student's own first."""
        if not self.training:
            own: Tensor = self.student(images)
            return own
        seen: dict[nn.Module, Tensor] = {}

        def keep(layer: nn.Module, _: object, features: Tensor) -> None:
            seen[layer] = features

        handles = [layer.register_forward_hook(keep) for layer in self._layers]
        try:
            logits = [self.student(images)]
        finally:
            for handle in handles:
                handle.remove()
        logits += [head(seen[layer]) for head, layer in zip(self.heads, self._layers, strict=True)]
        return torch.stack(logits)


def _head(channels: int, classes: int) -> nn.Module:
    """What follows a convolution in most students, then the pool and the linear classifier."""
    return nn.Sequential(
        nn.BatchNorm2d(channels), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)
    )
