"""What a traitor holds: the answers to one key, or to several that put theirs together, and a way to train.

Knows tensors; knows neither how a mark is made nor how it is read. An evasion makes of it a suspect, which is asked.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor, nn

from models.attacks.attacker import Trainer

Suspect = Callable[[Tensor], Tensor]  # images uint8 [N, 3, H, W] → probabilities float32 [N, K]


@dataclass(frozen=True)
class Leak:
    """Images uint8 [N, 3, H, W] with true labels int64 [N]; `soft` are the logits [N, K] that each key was told."""

    images: Tensor
    labels: Tensor
    soft: tuple[Tensor, ...]
    trainer: Trainer
    _trained: dict[tuple[float, float], nn.Module] = field(default_factory=dict, repr=False)

    @property
    def mean(self) -> Tensor:
        """The mean of the keys' logits [N, K]: those of the one key, if there is no more."""
        return sum(self.soft[1:], start=self.soft[0]) / len(self.soft)

    def honest(self, *, temperature: float = 4.0, alpha: float = 0.9) -> nn.Module:
        """A student of the keys' mean answers that hides nothing yet; trained once, a copy for each who asks."""
        asked = temperature, alpha
        if asked not in self._trained:
            self._trained[asked] = self.student(self.mean, temperature=temperature, alpha=alpha)
        return copy.deepcopy(self._trained[asked])

    def student(self, soft: Tensor, *, temperature: float = 4.0, alpha: float = 0.9) -> nn.Module:
        """Distilled from `soft` [N, K] and the true labels, as a partner would."""
        return self.trainer.distil(self.images, self.labels, soft, temperature=temperature, alpha=alpha)

    def suspect(self, student: nn.Module) -> Suspect:
        """What `student` answers."""
        return lambda images: self.trainer.predict(student, images).softmax(1)
