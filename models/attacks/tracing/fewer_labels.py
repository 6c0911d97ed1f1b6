"""Only some of the soft labels are used, and true labels for all other images.

Hopes that what is seldom seen is not learned.
"""

import torch
from torch import Tensor, nn

from models.attacks.tracing.leak import Leak, Suspect
from models.losses import student_loss
from models.training.loop import Batch
from models.views import random_views


def evade(leak: Leak, *, share: float = 0.1) -> Suspect:
    """Distillation of the first `share` of the images, cross-entropy with the labels of the others."""
    soft, known = leak.mean, round(share * len(leak.images))

    def step(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        logits = model(random_views(batch.images, batch.generator))
        told = (batch.rows < known).to(logits.device)
        losses = [
            student_loss(
                logits[rows], soft[batch.rows].to(logits)[rows], batch.labels[rows], temperature=4, alpha=alpha
            )
            * (rows.sum() / len(rows))
            for rows, alpha in ((told, 0.9), (~told, 0.0))
            if rows.any()
        ]
        return {"loss": torch.stack(losses).sum()}

    return leak.suspect(leak.trainer.fit(leak.images, leak.labels, step))
