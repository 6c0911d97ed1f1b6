"""The loss of a student that learns from soft labels: pure functions of logits, means over the batch."""

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


def student_loss(
    student: Tensor, soft: Tensor, labels: Tensor, *, temperature: float, alpha: float, smoothing: float = 0.0
) -> Tensor:
    """α · distillation + (1−α) · cross-entropy of logits [B, K], labels int64 [B] (official code, `train_kd.py`).

    `soft` holds the teacher's *logits*; α = 1 is the student without labels. `smoothing` is that of the labels.
    "Official code" is JngwenYe/SDB at 7534210.
    """
    loss = torch.zeros((), device=student.device)
    if alpha > 0:
        loss = loss + alpha * distillation(student, soft, temperature)
    if alpha < 1:
        loss = loss + (1 - alpha) * F.cross_entropy(student, labels, label_smoothing=smoothing)
    return loss
