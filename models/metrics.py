"""Figures about logits: plain functions, on whatever device the tensors live."""

from torch import Tensor
from torch.nn import functional as F


def top1(logits: Tensor, labels: Tensor) -> float:
    """Share of rows of logits [N, K] whose argmax is the label [N], in [0, 1]."""
    return (logits.argmax(1) == labels).float().mean().item()


def agreement(first: Tensor, second: Tensor) -> float:
    """Share of rows on which two sets of logits [N, K] have the same argmax, in [0, 1]."""
    return (first.argmax(1) == second.argmax(1)).float().mean().item()


def l1_distance(first: Tensor, second: Tensor) -> float:
    """Mean over rows of ‖softmax(first) − softmax(second)‖₁ of logits [N, K], in [0, 2]."""
    return (F.softmax(first, 1) - F.softmax(second, 1)).abs().sum(1).mean().item()
