"""Laws of the evasions: each gives a suspect that can be asked, and does to it what its name says."""

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from models.attacks.attacker import Trainer
from models.attacks.tracing.leak import Leak
from models.attacks.tracing.pruning import pruned
from models.attacks.tracing.quantising import quantised
from models.attacks.tracing.rounding import evade as rounded
from models.attacks.tracing.suite import EVASIONS, Evasion
from models.training.loop import Recipe
from tests.conftest import smooth_images

CLASSES, COUNT = 4, 64
IMAGES = smooth_images(COUNT, side=8)


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES))


def leak(keys: int) -> Leak:
    draw = torch.Generator().manual_seed(0)
    soft = tuple(torch.randn(COUNT, CLASSES, generator=draw) for _ in range(keys))
    trainer = Trainer(Fabric(accelerator="cpu", devices=1), network, Recipe(1, 0.01, 32), "student")
    return Leak(IMAGES, torch.arange(COUNT) % CLASSES, soft, trainer)


@pytest.mark.parametrize("evasion", EVASIONS, ids=[evasion.name for evasion in EVASIONS])
def test_every_evasion_gives_a_suspect_that_answers_with_probabilities(evasion: Evasion) -> None:
    answers = evasion.evade(leak(evasion.keys))(IMAGES[:7])
    assert answers.shape == (7, CLASSES)
    assert answers.isfinite().all()
    torch.testing.assert_close(answers.sum(1), torch.ones(7), atol=0.03, rtol=0)


def test_colluding_keys_are_learned_as_their_mean() -> None:
    held = leak(3)
    torch.testing.assert_close(held.mean, torch.stack(held.soft).mean(0))


def test_evasions_of_one_leak_begin_with_the_same_student_and_leave_it_as_it_was() -> None:
    held = leak(1)
    honest = held.suspect(held.honest())(IMAGES)
    pruned(held.honest(), 0.5)
    torch.testing.assert_close(held.suspect(held.honest())(IMAGES), honest, atol=0, rtol=0)
    torch.testing.assert_close(held.suspect(held.student(held.mean))(IMAGES), honest, atol=0, rtol=0)
    assert not torch.equal(held.suspect(held.honest(temperature=1))(IMAGES), honest)


def test_pruning_leaves_the_share_that_it_says_of_the_largest_weights() -> None:
    weights = [p for name, p in pruned(network(), 0.3).named_parameters() if name.endswith("weight")]
    zero = sum(int((weight == 0).sum()) for weight in weights)
    assert zero == round(0.3 * sum(weight.numel() for weight in weights))


def test_quantised_weights_have_no_more_levels_than_their_bits_can_name() -> None:
    def levels(row: Tensor) -> int:
        return len(set(row.tolist()))

    for layer in quantised(network(), 3).modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            assert max(levels(row) for row in layer.weight.detach().flatten(1)) <= 2**3


def test_rounded_answers_have_the_decimals_that_were_asked_for() -> None:
    answers = rounded(leak(1), decimals=1)(IMAGES)
    torch.testing.assert_close(answers * 10, (answers * 10).round())
