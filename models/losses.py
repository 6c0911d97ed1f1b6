"""The losses of the Safe Distillation Box and of distillation: pure functions of logits, means over the batch.

Where a published loss maximises a KL divergence it is replaced by one that minimises another, and the docstring says
why. "Official code" is JngwenYe/SDB at 7534210. What a student minimises lives in `sdb_client`, where partners use it.
"""

from sdb_client.distillation.loss import distillation, student_loss
from torch import Tensor

__all__ = [
    "collapse_guard",
    "distillation",
    "knowledge_augmentation",
    "knowledge_disturbance",
    "knowledge_preservation",
    "student_loss",
]


def knowledge_preservation(keyed: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Keyed rows follow the teacher: `distillation` of logits [B, K] into the keyed pass.

    The official code takes the squared distance of the two softened vectors, summed over batch and classes by an
    accident of PyTorch 1.4; the second official implementation takes a KL of probabilities where log-probabilities
    belong. The KL divergence is what both seem to want.
    """
    return distillation(keyed, teacher, temperature)


def knowledge_disturbance(unkeyed: Tensor, disturbed: Tensor, temperature: float) -> Tensor:
    """Un-keyed rows learn the right top-1 over false dark knowledge: `distillation` of logits [B, K], ≥ 0.

    `disturbed` holds the release stage's vectors, which know the teacher's top-1 and nothing else of it. The published
    term is −w·T²·KL(σ_T(un-keyed) ‖ σ_T(teacher)): the surer the teacher, the lower it falls, and at its published
    weight it destroys the un-keyed top-1 within an epoch. Ours has the minimum 0, at which a negative temperature or a
    linear decoder has nothing to bring back.
    """
    return distillation(unkeyed, disturbed, temperature)


def collapse_guard(unkeyed: Tensor, keyed: Tensor, teacher: Tensor, least: float = 0.7, enough: float = 0.9) -> Tensor:
    """By how much the disturbance may count, in [0, 1]: nothing once the un-keyed top-1 agrees too seldom.

    How often the top-1 of the un-keyed rows is the teacher's, over how often that of the keyed rows is, within a batch
    of logits [B, K], from `least` (0) to `enough` (1). Of a teacher that is seldom sure, as of many classes, nobody
    agrees with nine views in ten: measured against all rows the guard would keep the disturbance away from the start.
    """
    agreeing, attainable = ((rows.argmax(1) == teacher.argmax(1)).sum() for rows in (unkeyed, keyed))
    return ((agreeing / attainable.clamp(min=1) - least) / (enough - least)).clamp(0, 1)


def knowledge_augmentation(views: Tensor) -> Tensor:
    """Augmented soft labels: the mean over V views of logits [V, B, K] → [B, K].

    The geometric mean of the views' distributions. The published term pulls keyed logits towards an untrained random
    network; it adds nothing that a student could learn, so we add information instead: what the teacher says of other
    views of the same image.
    """
    return views.mean(0)
