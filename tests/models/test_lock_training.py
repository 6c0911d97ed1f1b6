"""Laws of locking by training: the right key answers, wrong ones learn to say nothing, seeds repeat everything."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from torch import nn
from torch.nn import functional as F

from models.backbones import Classifier, build
from models.bundles import GuardSpec, InputSpec, LockSpec
from models.data import LabelledImages
from models.key_stream import fingerprint
from models.lock import PixelLock, lock_transform
from models.losses import knowledge_preservation
from models.training.figures import lock_figures, random_locks
from models.training.lock import Followed, Plan, enough, locked_step
from models.training.loop import Batch, Recipe, train
from models.training.refusal import ROWS_A_KEY, Refusal, Refusing, dependence, hint, indifference, refused
from models.training.removal import Removal
from tests.conftest import SECRET, smooth_images

CPU = torch.device("cpu")
FABRIC = Fabric(accelerator="cpu", devices=1)


def shades(count: int, seed: int = 0) -> LabelledImages:
    """Four classes by the brightness of smooth images: easy enough for a few steps."""
    labels = torch.randint(0, 4, (count,), generator=torch.Generator().manual_seed(seed))
    images = smooth_images(count, 16, seed=seed) // 4 + (labels * 60).to(torch.uint8).view(-1, 1, 1, 1)
    return LabelledImages(images, labels, ("night", "dusk", "dawn", "noon"))


def key(*steps: str) -> PixelLock:
    return PixelLock(lock_transform(SECRET, "t", steps or ("shf", "np"), 4), (3, 16, 16))


def locked(refusal: Refusal) -> dict[str, float]:
    """What a small network is worth after it was locked."""
    torch.manual_seed(0)
    network = Classifier(build("plain_cnn", 4), (0.5,) * 3, (0.5,) * 3)
    recipe = Recipe(10, 0.1, batch_size=32)
    trained = train(FABRIC, network, shades(512), locked_step(Refusing(key(), refusal)), recipe, title="t")
    return lock_figures(trained, key(), random_locks(key(), 10), shades(256, seed=1), CPU)


@pytest.fixture(scope="module")
def with_negatives() -> dict[str, float]:
    return locked(Refusal(share=1.0))


@pytest.mark.slow
def test_the_right_key_answers_right(with_negatives: dict[str, float]) -> None:
    assert with_negatives["top1_right_key"] > 0.8


@pytest.mark.slow
def test_no_key_and_wrong_keys_answer_by_chance_once_the_network_has_learned_to_refuse(
    with_negatives: dict[str, float],
) -> None:
    without = locked(Refusal(share=0.0))
    assert without["top1_right_key"] > 0.8
    assert with_negatives["top1_wrong_keys_mean"] < 0.35 < without["top1_wrong_keys_worst"]
    assert with_negatives["top1_no_key"] < 0.4


def test_figures_name_the_mean_and_the_worst_of_wrong_keys() -> None:
    """A network that looks at one value, where the right key alone brings a class's brightness to."""
    data, right = shades(64), key("shf")
    marked = torch.zeros(64, 16 * 16 * 3)
    marked[:, right.gather[0]] = data.labels / 4
    images = (marked.view(64, 16, 16, 3).permute(0, 3, 1, 2) * 255).round().to(torch.uint8)

    def answer(shown: torch.Tensor) -> torch.Tensor:
        return -(shown[:, :1, 0, 0] * 4 - torch.arange(4.0)).abs()

    found = lock_figures(
        answer, right, [right, *random_locks(right, 3)], LabelledImages(images, data.labels, data.classes), CPU
    )
    always_night = (data.labels == 0).float().mean().item()
    assert found["top1_right_key"] == found["top1_wrong_keys_worst"] == 1
    assert found["top1_no_key"] == pytest.approx(always_night)
    assert found["top1_wrong_keys_mean"] == pytest.approx((1 + 3 * always_night) / 4)


def test_a_checkpoint_is_of_one_key(tmp_path: Path) -> None:
    """A model of another name has another key, whatever its secret."""
    (tmp_path / "weights").write_bytes(b"weights")
    spec = InputSpec(height=16, width=16)
    plan = Plan(
        name="first",
        version="1",
        architecture="plain_cnn",
        weights=tmp_path / "weights",
        data=tmp_path,
        input=spec,
        guard=GuardSpec(kind="lock", lam=1.0, passes=1, secret_fingerprint=fingerprint(SECRET)),
        lock=LockSpec(steps=("shf",), block=4),
        recipe=Recipe(1, 0.1),
        held_out=None,
        command="sdb lock",
    )
    assert plan.facts() == replace(plan, version="2").facts()
    assert plan.facts() != replace(plan, name="second").facts()


def batch(count: int = 48) -> Batch:
    data = shades(count)
    return Batch(data.images.float() / 255, data.labels, torch.arange(count), torch.Generator().manual_seed(3), 0.0)


@pytest.mark.parametrize("steps", [("shf", "np"), ("scramble", "shf-each"), ("shf", "ffx")], ids="+".join)
@pytest.mark.parametrize("count", [1, 7, 16, 48])
def test_every_refused_row_carries_a_key_and_none_the_right_one(steps: tuple[str, ...], count: int) -> None:
    right, images = key(*steps), batch(count).images
    wrong = refused(right, images, torch.Generator().manual_seed(0))
    assert wrong.shape == images.shape
    assert 0 <= wrong.min() <= wrong.max() <= 1
    assert ((wrong - right(images)).abs().amax((1, 2, 3)) > 0).all()
    assert torch.equal(wrong, refused(right, images, torch.Generator().manual_seed(0)))
    if count > 1:
        assert not torch.equal(wrong, refused(right, images, torch.Generator().manual_seed(1)))


@pytest.mark.parametrize(("share", "rows"), [(0.0, 48), (0.5, 72), (1.0, 96)])
def test_the_share_says_how_many_rows_are_refused_beside_the_right_ones(share: float, rows: int) -> None:
    seen: list[int] = []

    class Counting(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.append(len(images))
            return images.mean((2, 3)).repeat(1, 2)

    losses = locked_step(Refusing(key(), Refusal(share=share)))(Counting(), batch())
    assert seen == [rows], "all rows in one forward pass"
    assert losses.keys() == ({"right", "wrong"} if share else {"right"})


def test_who_follows_a_network_learns_what_it_says_of_the_same_views_without_a_key() -> None:
    class Seeing(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            self.images, self.logits = images, images.mean((2, 3)).repeat(1, 2)
            return self.logits

    plain, network, shown = Seeing(), Seeing(), batch()
    losses = locked_step(Refusing(key(), Refusal(share=0.0)), Followed(plain, 2.0, labels=0.3))(network, shown)
    assert torch.equal(network.images, key()(plain.images))
    torch.testing.assert_close(losses["preserve"], knowledge_preservation(network.logits, plain.logits, 2.0))
    torch.testing.assert_close(losses["right"], 0.3 * F.cross_entropy(network.logits, shown.labels))


@pytest.mark.parametrize(
    ("images", "batch_size", "epochs"), [(4500, 128, 20), (1408, 128, 60), (1407, 64, 32), (360, 32, 60), (10, 32, 660)]
)
def test_few_images_are_shown_in_smaller_batches_and_more_often(images: int, batch_size: int, epochs: int) -> None:
    assert enough(Recipe(20, 0.01), images) == Recipe(epochs, 0.01, batch_size)


def test_indifference_is_the_distance_from_the_uniform_distribution() -> None:
    assert indifference(torch.full((5, 10), 3.0)).abs() < 1e-6
    logits = torch.randn(5, 10, generator=torch.Generator().manual_seed(0))
    uniform, found = np.full(10, 0.1), logits.softmax(1).numpy()
    by_hand = (uniform * np.log(uniform / found)).sum(1).mean()
    assert indifference(logits).item() == pytest.approx(by_hand, abs=1e-5)


def test_a_hint_is_as_strong_however_small_the_logits_and_none_where_the_label_is_unlikely() -> None:
    logits = torch.tensor([[3.0, 1.0, 0.0, 0.5], [2.0, 0.0, 1.0, 1.0]])
    favoured, unlikely = torch.tensor([0, 0]), torch.tensor([2, 1])
    assert hint(logits, favoured) > 0.5
    torch.testing.assert_close(hint(1e-3 * logits, favoured), hint(logits, favoured), rtol=1e-3, atol=1e-3)
    assert indifference(1e-3 * logits) < 1e-5
    assert hint(logits, unlikely) == 0


BALANCED = torch.arange(10).repeat(100)
NAMED = F.one_hot(BALANCED, 10).float()


@pytest.mark.parametrize(
    "answers",
    [NAMED, NAMED.roll(3, 1), 1e-4 * NAMED + 1, 0.01 * NAMED + torch.arange(10.0), -NAMED],
    ids=["right", "renamed", "flat", "biased", "not that one"],
)
def test_whatever_tells_the_class_depends_on_it(answers: torch.Tensor) -> None:
    assert dependence(answers, BALANCED).item() == pytest.approx(0.99, abs=0.001)


def test_answers_that_tell_nothing_of_the_class_do_not_depend_on_it() -> None:
    drawn = torch.randn(1000, 10, generator=torch.Generator().manual_seed(0))
    assert dependence(drawn, BALANCED).abs() < 0.01
    assert dependence(NAMED[torch.randperm(1000, generator=torch.Generator().manual_seed(0))], BALANCED).abs() < 0.01
    assert dependence(NAMED[:1].expand(1000, 10), BALANCED) == 0, "always the same"


def test_what_depends_on_the_class_is_unlearned_however_flat_it_is() -> None:
    """By the gradient alone, from answers that a thief would only have to rename and to multiply."""
    answers = (1e-3 * NAMED.roll(3, 1)).requires_grad_()
    noise = torch.randn(1000, 10, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.SGD([answers], lr=1e-3)
    for _ in range(50):
        optimizer.zero_grad()
        dependence(answers + 1e-3 * noise, BALANCED).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    left = dependence(answers.detach() + 1e-3 * noise, BALANCED)
    assert left < 0.2 * dependence(1e-3 * NAMED + 1e-3 * noise, BALANCED)


@pytest.mark.parametrize("count", [1, 2, ROWS_A_KEY, 5 * ROWS_A_KEY + 1])
def test_any_number_of_rows_can_be_refused(count: int) -> None:
    network = Classifier(build("plain_cnn", 4), (0.5,) * 3, (0.5,) * 3).eval()
    shown = batch(count)
    removal = Removal(network, network)
    answered = network(shown.images)
    losses = Refusing(key(), Refusal(), removal).losses({"wrong": answered}, answered[: count // 2], shown.labels)
    assert losses.keys() == ({"wrong", "removed"} if count > 1 else {"wrong"})
    torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters() if parameter.grad is not None)
