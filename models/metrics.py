"""Figures about logits: plain functions, on whatever device the tensors live."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

BINS = 15  # Guo et al. 2017, §2


def top1(logits: Tensor, labels: Tensor) -> float:
    """Share of rows of logits [N, K] whose argmax is the label [N], in [0, 1]."""
    return (logits.argmax(1) == labels).float().mean().item()


def agreement(first: Tensor, second: Tensor) -> float:
    """Share of rows on which two sets of logits [N, K] have the same argmax, in [0, 1]."""
    return (first.argmax(1) == second.argmax(1)).float().mean().item()


def l1_distance(first: Tensor, second: Tensor) -> float:
    """Mean over rows of ‖softmax(first) − softmax(second)‖₁ of logits [N, K], in [0, 2]."""
    return (F.softmax(first, 1) - F.softmax(second, 1)).abs().sum(1).mean().item()


def kl_divergence(first: Tensor, second: Tensor, temperature: float = 1.0) -> float:
    """Mean over rows of KL(σ_T(first) ‖ σ_T(second)) of logits [N, K], in nats, ≥ 0."""
    scaled = F.log_softmax(second / temperature, 1), F.log_softmax(first / temperature, 1)
    return F.kl_div(*scaled, reduction="batchmean", log_target=True).item()


@dataclass(frozen=True)
class Bin:
    """Rows of like confidence: their mean confidence, the share of them that is right, and their share of all rows."""

    confidence: float
    accuracy: float
    share: float


def reliability(logits: Tensor, labels: Tensor) -> list[Bin]:
    """Rows of logits [N, K] by the probability of their top-1, in BINS equal intervals; empty ones are left out."""
    confidence, predicted = F.softmax(logits, 1).max(1)
    right = (predicted == labels).float()
    number = (confidence * BINS).long().clamp(max=BINS - 1)
    groups = [number == place for place in range(BINS)]
    return [
        Bin(confidence[group].mean().item(), right[group].mean().item(), group.float().mean().item())
        for group in groups
        if group.any()
    ]


def calibration_error(logits: Tensor, labels: Tensor) -> float:
    """Expected calibration error, in [0, 1] (Guo et al. 2017, equation 3)."""
    return sum(group.share * abs(group.confidence - group.accuracy) for group in reliability(logits, labels))
