"""Laws of the losses: where they are zero, that they are bounded below, what their gradients leave alone."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from models import losses

LOGITS = st.integers(0, 2**31).map(lambda seed: 10 * torch.randn(6, 5, generator=torch.Generator().manual_seed(seed)))
LABELS = torch.tensor([0, 1, 2, 3, 4, 0])
TEMPERATURES = st.sampled_from([0.5, 1.0, 4.0, 20.0])


@given(LOGITS, LOGITS, TEMPERATURES)
def test_no_loss_is_ever_negative(first: torch.Tensor, second: torch.Tensor, temperature: float) -> None:
    assert losses.distillation(first, second, temperature) >= -1e-4
    assert losses.knowledge_preservation(first, second, temperature) >= -1e-4
    assert losses.knowledge_disturbance(first, second, temperature) >= -1e-4


@given(LOGITS, TEMPERATURES)
def test_equal_logits_lose_nothing_whatever_their_offset(logits: torch.Tensor, temperature: float) -> None:
    assert losses.distillation(logits, logits + 3, temperature).abs() < 1e-2
    assert losses.knowledge_disturbance(logits, logits - 3, temperature).abs() < 1e-2


@given(LOGITS, LOGITS)
def test_distillation_is_the_textbook_divergence(student: torch.Tensor, teacher: torch.Tensor) -> None:
    p, q = F.softmax(teacher / 4, 1).double(), F.softmax(student / 4, 1).double()
    expected = 16 * (p * (p.log() - q.log())).sum(1).mean()
    assert losses.distillation(student, teacher, 4).item() == pytest.approx(expected.item(), rel=1e-3, abs=1e-4)


@pytest.mark.parametrize(
    ("missed", "weights"), [(0, (1, 1, 0.5, 0, 0)), (4, (1, 1, 1, 0.875, 0)), (20, (1, 1, 1, 1, 0))]
)
def test_the_collapse_guard_lets_go_as_the_top1_gets_lost(missed: int, weights: tuple[float, ...]) -> None:
    """Of 20 rows, the keyed of which have missed the teacher's top-1 so often, the un-keyed miss 0, 2, 4, 6 or 20."""
    teacher = F.one_hot(torch.arange(20), 20).float()

    def missing(count: int) -> torch.Tensor:
        return torch.cat([teacher[:count].roll(1, 1), teacher[count:]])

    for wrong, weight in zip((0, 2, 4, 6, 20), weights, strict=True):
        found = losses.collapse_guard(missing(wrong), missing(missed), teacher).item()
        assert found == pytest.approx(weight, abs=1e-5)


def test_augmentation_is_the_geometric_mean_of_the_views() -> None:
    views = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    geometric = F.softmax(views, 2).prod(0).pow(1 / 3)
    expected = geometric / geometric.sum(1, keepdim=True)
    torch.testing.assert_close(F.softmax(losses.knowledge_augmentation(views), 1), expected)


@given(LOGITS, LOGITS)
def test_alpha_blends_labels_and_soft_labels(student: torch.Tensor, soft: torch.Tensor) -> None:
    def loss(alpha: float) -> float:
        return losses.student_loss(student, soft, LABELS, temperature=4, alpha=alpha).item()

    assert loss(0) == pytest.approx(F.cross_entropy(student, LABELS).item(), rel=1e-4)
    assert loss(1) == pytest.approx(losses.distillation(student, soft, 4).item(), rel=1e-4)
    assert loss(0.5) == pytest.approx((loss(0) + loss(1)) / 2, rel=1e-3)
