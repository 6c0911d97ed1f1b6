"""Attacks of the Adversarial Robustness Toolbox, with students that are trained as well as our own.

ART's own fit knows no augmentation, schedule or clipping. Here views are drawn inside the network and the rest hangs
on the optimiser, since a weak attacker looks like a strong defence.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from models.attacks.attacker import Attacker
from models.training.loop import Recipe, predict, sgd
from models.views import random_views

try:
    from art.attacks.extraction import CopycatCNN, KnockoffNets
except NameError:  # ART writes its settings at its very first import, and falls over another process that does
    from art.attacks.extraction import CopycatCNN, KnockoffNets
from art.estimators.classification import BlackBoxClassifier, PyTorchClassifier

__all__ = ["CopycatCNN", "KnockoffNets", "extract"]

Floats = NDArray[np.float32]


class Viewed(nn.Module):
    """A network that sees random views of its images while it is trained."""

    def __init__(self, network: nn.Module, seed: int) -> None:
        super().__init__()
        self.network = network
        self._generator = torch.Generator().manual_seed(seed)

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] → logits [B, K]."""
        logits: Tensor = self.network(random_views(images, self._generator) if self.training else images)
        return logits


def extract(attacker: Attacker, attack: Callable[..., Any], *, use_probability: bool) -> nn.Module:
    """The student that `attack`, the class of an extraction attack, makes of the answers or of their top-1s."""
    recipe, images = attacker.trainer.recipe, attacker.images
    np.random.seed(recipe.seed)  # ART draws from the global generators
    device = attacker.trainer.fabric.device
    student = attacker.trainer.student().to(device)
    batch = min(recipe.batch_size, len(images))
    stolen = len(images) // batch * batch  # a last batch of a few images spoils the batch normalisation
    shape, classes = images.shape[1:], predict(student.eval(), images[:1], device).shape[1]

    def answer(pixels: Floats) -> Floats:
        asked = (torch.from_numpy(pixels) * 255).round().to(torch.uint8)
        probabilities: Floats = attacker.oracle.query(asked).softmax(1).numpy()
        return probabilities

    thief = PyTorchClassifier(
        Viewed(student, recipe.seed),
        # Not nn.CrossEntropyLoss: ART turns that one's labels into their argmax wherever all of them are whole numbers.
        F.cross_entropy,
        shape,
        classes,
        optimizer=_optimizer(student, recipe, recipe.epochs * stolen // batch),
        device_type="cpu" if device.type == "cpu" else "gpu",
    )
    attack(
        BlackBoxClassifier(answer, shape, classes),
        batch_size_fit=batch,
        batch_size_query=stolen,
        nb_epochs=recipe.epochs,
        nb_stolen=stolen,
        use_probability=use_probability,
    ).extract(images.numpy().astype(np.float32) / 255, thieved_classifier=thief)
    return student.eval()


def _optimizer(student: nn.Module, recipe: Recipe, total: int) -> torch.optim.Optimizer:
    """The optimiser of our own loop, which warms up, cools down in `total` steps and clips by itself."""
    optimizer = sgd(student, recipe)

    def share(step: int) -> float:
        return min((step + 1) / (recipe.warmup * total + 1), 0.5 * (1 + math.cos(math.pi * step / total)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
    optimizer.register_step_pre_hook(lambda *_: _clip(student, recipe))
    optimizer.register_step_post_hook(lambda *_: schedule.step())
    return optimizer


def _clip(student: nn.Module, recipe: Recipe) -> None:
    nn.utils.clip_grad_norm_(student.parameters(), recipe.clip_norm)
