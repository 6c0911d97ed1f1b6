"""An attacker: the images it holds, the door it knocks at, and the students it can train.

Knows what every attack needs and no attack. Architecture, schedule, seed and augmentation are the same for all attacks
and all reference students, so that two results differ by what was learned from alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from models.attacks.oracle import Oracle
from models.data import LabelledImages
from models.training.loop import Recipe, Step, predict, train
from models.training.student import distilling

LEAST = 1e-8  # of a probability: keeps logarithms finite


@dataclass(frozen=True)
class Trainer:
    """How students are made: `new` draws an untrained one, `recipe` says how long and by which seed it is trained."""

    fabric: Fabric
    new: Callable[[], nn.Module]
    recipe: Recipe
    title: str
    checkpoint: Path | None = None

    def student(self) -> nn.Module:
        """An untrained student; the same one whenever the seed is the same."""
        torch.manual_seed(self.recipe.seed)
        return self.new()

    def fit(
        self, images: Tensor, labels: Tensor, step: Step, student: nn.Module | None = None, *, stage: str = "student"
    ) -> nn.Module:
        """A student trained by `step` on images uint8 [N, 3, H, W] with labels int64 [N]; a fresh one by default.

        An attack that trains several networks calls each training another `stage`, for its checkpoint's sake.
        """
        data = LabelledImages(images, labels, tuple(str(number) for number in range(int(labels.max()) + 1)))
        model = self.student() if student is None else student
        checkpoint = self.checkpoint and self.checkpoint.with_suffix(f".{stage}.pt")
        title = self.title if stage == "student" else f"{self.title}: {stage}"
        return train(self.fabric, model, data, step, self.recipe, title=title, checkpoint=checkpoint)

    def distil(
        self, images: Tensor, labels: Tensor, soft: Tensor, *, temperature: float, alpha: float, smoothing: float = 0.0
    ) -> nn.Module:
        """A student of α parts soft labels (logits [N, K], one per image) and 1−α parts labels, crops and mirrors."""
        step = distilling(soft, temperature=temperature, alpha=alpha, smoothing=smoothing)
        return self.fit(images, labels, step)

    def predict(self, student: nn.Module, images: Tensor) -> Tensor:
        """Logits [N, K] that a student gives for images uint8 [N, 3, H, W]."""
        return predict(student, images, self.fabric.device)


@dataclass(frozen=True)
class Attacker:
    """What one attacker has.

    `images` uint8 [N, 3, H, W] are its own; `labels` int64 [N] are true ones, or None when it has none; `clean` float
    [M, K], M ≤ N, are undisturbed logits of its first M images, from a key it once had or a shadow model: a gift that
    only the attacks that learn to undo the disturbance unwrap.
    """

    oracle: Oracle
    images: Tensor
    labels: Tensor | None
    clean: Tensor | None
    trainer: Trainer

    def known(self) -> Tensor:
        """The undisturbed logits [M, K], for an attack that cannot do without.

        Raises:
            ValueError: it has none.
        """
        if self.clean is None:
            raise ValueError("this attack needs clean logits of some of the attacker's images")
        return self.clean

    def labels_or(self, answers: Tensor) -> Tensor:
        """The true labels; without them, the top-1 of `answers` [N, K]."""
        return answers.argmax(1) if self.labels is None else self.labels

    def distil(self, soft: Tensor, answers: Tensor, *, temperature: float = 4.0, alpha: float = 0.9) -> nn.Module:
        """`Trainer.distil` on this attacker's images: soft labels recovered from `answers`, which also label them."""
        labels = self.labels_or(answers)
        return self.trainer.distil(self.images, labels, soft, temperature=temperature, alpha=alpha)


def as_logits(probabilities: Tensor) -> Tensor:
    """Probabilities [..., K] as `distil` wants them: their logarithms, finite where they are 0."""
    return probabilities.clamp_min(LEAST).log()
