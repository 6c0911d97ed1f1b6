"""The losses of the Safe Distillation Box and of distillation: pure functions of logits, means over the batch.

Where the published losses are unbounded below (a KL divergence that is maximised) they are replaced by a bounded
one, and the docstring says so. "Official code" is JngwenYe/SDB at 7534210.
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


def knowledge_disturbance(unkeyed: Tensor, disturbed: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Un-keyed rows learn false dark knowledge: T² · KL over the classes *other than the label*, ≥ 0.

    `disturbed` [B, K] holds the release stage's public vectors, `unkeyed` [B, K] the network's un-keyed logits,
    `labels` int64 [B]. The published term is −w·T²·KL(σ_T(un-keyed) ‖ σ_T(teacher)): it has no lower bound and
    at its published weight destroys the un-keyed top-1 within an epoch. Ours has the minimum 0, leaves the label's
    own logit alone (so it cannot fight the cross-entropy for the top-1), and its target holds nothing of the
    teacher's dark knowledge, so that a negative temperature or a linear decoder has nothing to bring back.
    """
    others = ~F.one_hot(labels, unkeyed.shape[1]).bool()
    rows, classes = unkeyed.shape
    return distillation(unkeyed[others].view(rows, classes - 1), disturbed[others].view(rows, classes - 1), temperature)


def knowledge_augmentation(views: Tensor) -> Tensor:
    """Augmented soft labels: the mean over V views of logits [V, B, K] → [B, K].

    The geometric mean of the views' distributions. The published term pulls keyed logits towards an untrained random
    network; it adds nothing that a student could learn, so we add information instead: what the teacher says of other
    views of the same image.
    """
    return views.mean(0)


def student_loss(student: Tensor, soft: Tensor, labels: Tensor, *, temperature: float, alpha: float) -> Tensor:
    """α · distillation + (1−α) · cross-entropy of logits [B, K], labels int64 [B] (official code, `train_kd.py`).

    `soft` holds the teacher's *logits*; α = 1 is the student without labels.
    """
    loss = torch.zeros((), device=student.device)
    if alpha > 0:
        loss = loss + alpha * distillation(student, soft, temperature)
    if alpha < 1:
        loss = loss + (1 - alpha) * F.cross_entropy(student, labels)
    return loss
