"""The student goes on learning from true labels alone.

Hopes that the mark, which nothing repeats any more, is forgotten.
"""

from dataclasses import replace

import torch

from models.attacks.tracing.leak import Leak, Suspect


def evade(leak: Leak, *, epochs: float = 0.3, learning_rate: float = 0.2) -> Suspect:
    """Distillation, then `epochs` times as many epochs at `learning_rate` times the rate on the labels."""
    student, recipe = leak.honest(), leak.trainer.recipe
    shorter = replace(
        recipe, epochs=max(1, round(epochs * recipe.epochs)), learning_rate=learning_rate * recipe.learning_rate
    )
    tuner = replace(leak.trainer, recipe=shorter, new=lambda: student)
    nothing = torch.zeros_like(leak.mean)
    return leak.suspect(tuner.distil(leak.images, leak.labels, nothing, temperature=1, alpha=0))
