"""Students: a small classifier trained from labels, from soft labels, or from both.

Knows the student's side only; where the soft labels came from is the caller's business.
"""

from lightning_fabric import Fabric
from torch import Tensor, nn

from models.data import LabelledImages
from models.losses import student_loss
from models.training.loop import Batch, Recipe, train
from models.views import random_views


def distil(
    fabric: Fabric,
    student: nn.Module,
    data: LabelledImages,
    soft: Tensor,
    recipe: Recipe,
    *,
    temperature: float,
    alpha: float,
    title: str,
) -> nn.Module:
    """Train `student` on `data` with one cached soft label (logits [N, K]) per image, crops and flips.

    α = 0 is the student alone, α = 1 the one that never sees a label (`losses.student_loss`).
    """

    def step(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        logits = model(random_views(batch.images, batch.generator))
        target = soft[batch.rows].to(logits.device)
        return {"loss": student_loss(logits, target, batch.labels, temperature=temperature, alpha=alpha)}

    return train(fabric, student, data, step, recipe, title=title)
