"""How a student learns. Plain numbers."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """α · distillation at `temperature` + (1−α) · cross-entropy; SGD with Nesterov momentum, warm-up, cosine to zero.

    `augment`: the images are cropped and mirrored at random. `warmup` is the share of all steps.
    """

    epochs: int = 30
    temperature: float = 4.0
    alpha: float = 0.9
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup: float = 0.1
    clip_norm: float = 5.0
    augment: bool = True
    seed: int = 0
