"""The losses of the Safe Distillation Box and of distillation: pure functions of logits, means over the batch.

Where a published loss maximises a KL divergence it is replaced by one that minimises another, and the docstring says
why. "Official code" is JngwenYe/SDB at 7534210.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def distillation(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T² · KL(σ_T(teacher) ‖ σ_T(student)), ≥ 0, of logits [B, K] (Hinton et al. 2015, §2).

    T² keeps the gradient's size independent of the temperature.
    """
    soft_student = F.log_softmax(student / temperature, dim=1)
    soft_teacher = F.log_softmax(teacher / temperature, dim=1)
    return temperature**2 * F.kl_div(soft_student, soft_teacher, reduction="batchmean", log_target=True)


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


def collapse_guard(unkeyed: Tensor, teacher: Tensor, least: float = 0.7, enough: float = 0.9) -> Tensor:
    """By how much the disturbance may count, in [0, 1]: nothing once the un-keyed top-1 agrees too seldom.

    The agreement of logits [B, K] with the teacher's within the batch, from `least` (0) to `enough` (1).
    """
    agreement = (unkeyed.argmax(1) == teacher.argmax(1)).float().mean()
    return ((agreement - least) / (enough - least)).clamp(0, 1)


def knowledge_augmentation(views: Tensor) -> Tensor:
    """Augmented soft labels: the mean over V views of logits [V, B, K] → [B, K].

    The geometric mean of the views' distributions. The published term pulls keyed logits towards an untrained random
    network; it adds nothing that a student could learn, so we add information instead: what the teacher says of other
    views of the same image.
    """
    return views.mean(0)


def published(unkeyed: Tensor, keyed: Tensor, teacher: Tensor, labels: Tensor, *, weight: float) -> dict[str, Tensor]:
    """The loss that the official code minimises, term by term, without its random-network term (η = 0.001).

    Logits [B, K], labels int64 [B], T = 4, `weight` = 1 in the code. Kept to show what it does (docs/experiments.md).
    """
    kept = F.kl_div(F.log_softmax(unkeyed, 1), F.softmax(keyed.detach(), 1), reduction="batchmean")
    away = 16 * F.kl_div(F.log_softmax(teacher / 4, 1), F.softmax(unkeyed / 4, 1), reduction="batchmean")
    return {
        "correct": 2 * F.cross_entropy(unkeyed, labels) + F.cross_entropy(keyed, labels),
        "disturb": -weight * (away - kept),
        "preserve": (F.softmax(teacher / 4, 1) - F.softmax(keyed / 4, 1)).square().mean(),
    }


def student_loss(
    student: Tensor, soft: Tensor, labels: Tensor, *, temperature: float, alpha: float, smoothing: float = 0.0
) -> Tensor:
    """α · distillation + (1−α) · cross-entropy of logits [B, K], labels int64 [B] (official code, `train_kd.py`).

    `soft` holds the teacher's *logits*; α = 1 is the student without labels. `smoothing` is that of the labels.
    """
    loss = torch.zeros((), device=student.device)
    if alpha > 0:
        loss = loss + alpha * distillation(student, soft, temperature)
    if alpha < 1:
        loss = loss + (1 - alpha) * F.cross_entropy(student, labels, label_smoothing=smoothing)
    return loss
