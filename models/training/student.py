"""Students: a classifier trained from labels, from soft labels, or from both.

Knows the student's side only; where the soft labels came from is the caller's business.
"""

import torch
from torch import Tensor, nn

from models.losses import student_loss
from models.training.loop import Batch, Step
from models.views import random_views


def distilling(soft: Tensor, *, temperature: float, alpha: float, smoothing: float = 0.0) -> Step:
    """The step that learns one cached soft label per image (logits [N, K]) while it sees crops and mirrors of it.

    α = 0 is the student alone, α = 1 the one that never sees a label (`losses.student_loss`).
    """

    def step(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        logits = model(random_views(batch.images, batch.generator))
        target = soft[batch.rows].to(logits.device)
        loss = student_loss(logits, target, batch.labels, temperature=temperature, alpha=alpha, smoothing=smoothing)
        return {"loss": loss}

    return step


def shown(drawn: Tensor, soft: Tensor, epochs: int, *, temperature: float, alpha: float) -> Step:
    """The step that learns V views uint8 [V, N, 3, H, W] of the images with a soft label each, logits [V, N, K].

    Nothing else is shown: in each of the `epochs` the next view, so that teacher and student always see the same
    ("consistent teaching", Beyer et al., CVPR 2022).
    """

    def step(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        view = int(batch.progress * epochs + 1e-6) % len(drawn)
        device = batch.images.device
        images = drawn[view][batch.rows].to(device).float().div_(255)
        logits = model(images.contiguous(memory_format=torch.channels_last))
        target = soft[view, batch.rows].to(device)
        return {"loss": student_loss(logits, target, batch.labels, temperature=temperature, alpha=alpha)}

    return step
