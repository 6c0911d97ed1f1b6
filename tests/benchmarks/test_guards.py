"""A law of the losses that ours are compared with."""

import torch
from torch.nn import functional as F

from benchmarks.guards import published_losses

LABELS = torch.tensor([0, 1, 2, 3, 4, 0])


def test_the_published_losses_prefer_a_wrong_answer() -> None:
    """Why they are not ours: at w = 1 the disturbance outweighs the cross-entropy of everything that is right."""
    right = 20 * F.one_hot(LABELS, 5).float()
    wrong = right.roll(1, 1)
    totals = [
        torch.stack(list(published_losses(unkeyed, right, right, LABELS, weight).values())).sum().item()
        for weight in (1.0, 0.04)
        for unkeyed in (right, wrong)
    ]
    assert totals[1] < totals[0], "w = 1"
    assert totals[3] > totals[2], "w = 0.04"
