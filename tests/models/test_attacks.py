"""Laws of the attacks: each learns from a teacher that hides nothing, and undoes what it was made to undo."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.attacks import (
    augmentations,
    class_means,
    ddae,
    flattening,
    high_temperature,
    knockoff,
    markov,
    mixing,
    partial_bayes,
    repeats,
    ridge,
    sharpening,
    skeptical,
    soft_labels,
    subtraction,
    top_k,
)
from models.attacks.attacker import Attacker, Trainer
from models.attacks.suite import ATTACKS, Attack
from models.backbones import Classifier, architectures, build
from models.metrics import l1_distance, top1
from models.training.loop import Recipe
from tests.models.test_training import FABRIC, shades


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Networks as small as these only wait when their threads share cores with other work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


TEST = shades(256, seed=1).images[..., ::2, ::2]
each_attack = pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)


def brightness(images: Tensor) -> Tensor:
    """The teacher: the nearer an image is to the brightness of a class of `shades`, the larger that class's logit."""
    levels = images.float().mean((1, 2, 3)).unsqueeze(1)
    return -((levels - torch.tensor([32.0, 92.0, 152.0, 212.0])) / 40).square()


class Door:
    """An oracle as strict as a server: it checks what it is asked, and notes how much."""

    def __init__(self, teacher: Callable[[Tensor], Tensor]) -> None:
        self._teacher, self.queries = teacher, 0

    def query(self, images: Tensor) -> Tensor:
        assert images.dtype == torch.uint8
        assert images.shape[1:] == (3, 16, 16)
        self.queries += len(images)
        return self._teacher(images)


def small() -> nn.Module:
    return Classifier(build("plain_cnn", 4), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def attacker(
    teacher: Callable[[Tensor], Tensor] = brightness, *, images: int = 64, epochs: int = 1, pairs: int | None = None
) -> Attacker:
    """Somebody who has images of 16 by 16, no labels, and `pairs` clean answers."""
    own = shades(images).images[..., ::2, ::2]
    clean = None if pairs is None else brightness(own[:pairs])
    trainer = Trainer(FABRIC, small, Recipe(epochs, 0.1, batch_size=32), "student")
    return Attacker(Door(teacher), own, None, clean, trainer)


def told(attack: Callable[[Attacker], nn.Module], holder: Attacker) -> Tensor:
    """What a stolen student says of images that it has not seen."""
    return holder.trainer.predict(attack(holder), TEST)


def logits(rows: int = 2000, classes: int = 6, seed: int = 0) -> Tensor:
    """Answers whose top-1 leads by one at least."""
    drawn = 2 * torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed))
    return drawn + F.one_hot(drawn.argmax(1), classes)


def scrambled(clean: Tensor) -> Tensor:
    """For every top-1, an affine map of the other entries: another order, half the size, an offset."""
    rows, classes = clean.shape
    clean = clean - clean.mean(1, keepdim=True)
    tops = clean.argmax(1)
    others = ~F.one_hot(tops, classes).bool()
    hidden = clean[others].view(rows, classes - 1)
    draw = torch.Generator().manual_seed(0)
    orders = torch.stack([torch.randperm(classes - 1, generator=draw) for _ in range(classes)])
    moved = 0.5 * hidden.gather(1, orders[tops]) - tops.unsqueeze(1) / 2
    return clean.masked_scatter(others, moved)


@pytest.mark.slow
@each_attack
def test_every_attack_learns_from_a_teacher_that_hides_nothing(attack: Attack) -> None:
    """A weak attacker looks like a strong defence."""
    holder = attacker(images=256, epochs=6, pairs=128 if attack.uses_clean else None)
    answers = told(attack.steal, holder)
    assert answers.shape == (256, 4)
    assert answers.isfinite().all()
    assert top1(answers, brightness(TEST).argmax(1)) > 0.8


@pytest.mark.slow
@each_attack
def test_true_labels_change_the_student_of_those_attacks_that_say_so(attack: Attack) -> None:
    holder = attacker(pairs=32)
    labels = torch.arange(64) % 4
    assert torch.equal(told(attack.steal, holder), told(attack.steal, replace(holder, labels=labels))) == (
        not attack.uses_labels
    )


@pytest.mark.parametrize("attack", [attack for attack in ATTACKS if attack.uses_clean], ids=lambda attack: attack.name)
def test_an_attack_that_needs_clean_logits_says_so(attack: Attack) -> None:
    with pytest.raises(ValueError, match="clean logits"):
        attack.steal(attacker())


@pytest.mark.parametrize(
    ("name", "times"),
    [("hard labels", 1), ("ridge regression", 1), ("augmentations", 4), ("repeats", 4), ("CopycatCNN, vectors", 1)],
)
def test_an_attack_asks_no_more_than_it_says(name: str, times: int) -> None:
    holder = attacker(pairs=32)
    next(attack for attack in ATTACKS if attack.name == name).steal(holder)
    assert isinstance(holder.oracle, Door)
    assert holder.oracle.queries == 64 * times


def test_names_are_unique() -> None:
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS) == 34


# What each one recovers


def test_sharpening_undoes_flattening() -> None:
    flat = attacker(lambda images: brightness(images) / 4)
    stolen = told(partial(sharpening.steal, factor=4), flat)
    assert torch.equal(stolen, told(partial(soft_labels.steal, temperature=4, alpha=0.9), attacker()))


def test_class_means_cancel_what_differs_from_image_to_image() -> None:
    labels = torch.arange(2000) % 6
    truth = logits(6, seed=1)[labels]
    noisy = truth + 3 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    assert (class_means.recover(noisy, labels) - truth).abs().max() < 0.6


def test_ridge_regression_undoes_an_affine_map_of_each_class() -> None:
    clean = logits()
    answers = scrambled(clean)
    recovered = ridge.recover(answers, clean[:1500])[1500:]
    assert torch.equal(answers.argmax(1), clean.argmax(1))
    assert l1_distance(recovered, clean[1500:]) < 0.2 * l1_distance(answers[1500:], clean[1500:])


def test_ridge_regression_decodes_a_class_without_pairs_by_all_others() -> None:
    clean = logits()
    clean = clean[clean.argmax(1).sort(stable=True).indices]
    unseen = clean.argmax(1) == 5
    recovered = ridge.recover(clean / 2 + 1, clean[~unseen])
    assert l1_distance(recovered[unseen], clean[unseen]) < 0.05


def test_partial_bayes_finds_the_mean_of_the_clean_vectors_behind_an_answer() -> None:
    shown = torch.tensor([[3.0, 0, 0], [0, 3.0, 0]])
    clean = torch.stack([logits(200, 3, seed) for seed in (1, 2)])
    answers = torch.cat([shown.repeat_interleave(200, 0), shown])
    recovered = partial_bayes.recover(answers, clean.flatten(0, 1), radius=0.1, neighbours=8)[-2:].exp()
    assert torch.allclose(recovered, clean.softmax(2).mean(1), atol=1e-5)


def test_partial_bayes_looks_at_the_nearest_of_the_same_top1_where_nothing_is_near() -> None:
    answers = torch.tensor([[5.0, 0, 0], [1.0, 0, 0], [0, 1.0, 0], [3.0, 0, 0], [0, 0, 3.0]])
    clean = torch.eye(3)
    recovered = partial_bayes.recover(answers, clean, radius=1e-4, neighbours=2)[3:].exp()
    assert torch.allclose(recovered[0], clean[:2].softmax(1).mean(0))
    assert torch.allclose(recovered[1], clean[1:].softmax(1).mean(0))  # no pair has its top-1: the nearest of all


def test_ddae_undoes_most_of_a_smooth_map() -> None:
    clean = logits()
    answers = scrambled(clean)
    recovered = ddae.recover(answers, clean[:1500], seed=0)[1500:]
    assert l1_distance(recovered, clean[1500:]) < 0.5 * l1_distance(answers[1500:], clean[1500:])


def test_repeats_average_noise_away() -> None:
    draw = torch.Generator().manual_seed(0)
    noisy = Door(lambda images: brightness(images) + torch.randn(len(images), 4, generator=draw))
    error = [(repeats.ask(noisy, TEST, times) - brightness(TEST)).std().item() for times in (1, 16)]
    assert error[1] < 0.3 * error[0]


def test_views_are_of_the_same_pixels() -> None:
    images = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images[:] = images[..., :1, :1]
    assert torch.equal(augmentations.view(images, torch.Generator().manual_seed(0)), images)


def test_views_average_noise_away_and_count_true_top1s() -> None:
    truth = logits()
    noisy = truth + torch.randn((64, *truth.shape), generator=torch.Generator().manual_seed(1))
    assert top1(noisy[0], truth.argmax(1)) < 0.95
    for recovered in (augmentations.averaged(noisy), augmentations.counted(noisy)):
        assert torch.allclose(recovered.exp().sum(1), torch.ones(len(truth)), atol=1e-5)
        assert top1(recovered, truth.argmax(1)) > 0.97


@pytest.mark.parametrize(
    "recover",
    [
        high_temperature.recover,
        flattening.recover,
        lambda answers: top_k.recover(answers, 3),
        lambda answers: mixing.recover(answers, answers.argmax(1), 0.5),
        lambda answers: subtraction.recover(answers, torch.randn(answers.shape)),
    ],
    ids=["high temperatures", "flattening", "top-k", "mixing", "subtraction"],
)
@pytest.mark.parametrize("scale", [1, 100])
def test_targets_are_finite_and_keep_the_top1(recover: Callable[[Tensor], Tensor], scale: float) -> None:
    answers = scale * logits()
    assert recover(answers).isfinite().all()
    assert torch.equal(recover(answers).argmax(1), answers.argmax(1))


def test_high_temperatures_flatten_a_false_peak_and_keep_the_order() -> None:
    answers = torch.tensor([[9.0, 8.0, 1.0, 0.0]])
    recovered = high_temperature.recover(answers).exp()
    assert torch.allclose(recovered, torch.stack([(answers / t).softmax(1) for t in (5, 10, 20, 40)]).mean(0))
    assert recovered[0, 1] - recovered[0, 2] < 0.25
    assert recovered[0].diff().max() < 0


def test_flattening_keeps_the_confidence_only() -> None:
    answers = logits()
    recovered, top = flattening.recover(answers).exp(), answers.argmax(1, keepdim=True)
    assert torch.allclose(recovered.gather(1, top), answers.softmax(1).gather(1, top))
    assert torch.allclose(recovered.sum(1), torch.ones(len(answers)))
    assert recovered.scatter(1, top, 1.0).sort(1).values[:, :-1].std(1).max() < 1e-6


def test_top_k_keeps_the_largest_entries_only() -> None:
    answers = logits()
    softened = (top_k.recover(answers, 3) / 4).softmax(1).sort(1, descending=True).values
    kept = (answers.sort(1, descending=True).values[:, :3] / 4).softmax(1)
    assert torch.allclose(softened[:, :3], kept, atol=1e-3)


def test_a_mixture_is_half_the_label() -> None:
    labels = torch.zeros(2000, dtype=torch.int64)
    mixture = mixing.recover(logits(), labels, 0.5).exp()
    assert torch.allclose(mixture, 0.5 * logits().softmax(1) + 0.5 * F.one_hot(labels, 6), atol=1e-6)


def test_subtraction_leaves_what_the_prediction_does_not_explain() -> None:
    truth, false = logits(seed=1), logits(seed=2)
    others = ~F.one_hot(truth.argmax(1), 6).bool()
    answers = truth + false + 50 * ~others
    residual = subtraction.recover(answers, false)
    gaps = (residual - truth)[others].view(-1, 5)
    assert gaps.std(1).max() < 1e-4
    lead = residual.topk(2).values.diff() - answers.topk(2).values.diff()
    assert lead.abs().max() < 1e-4


def test_subtraction_predicts_a_disturbance_that_the_image_decides() -> None:
    def disturbed(images: Tensor) -> Tensor:
        levels = images.float().mean((2, 3)) / 40
        return torch.cat([levels, levels.sum(1, keepdim=True) + 9], dim=1)

    holder = attacker(disturbed, images=256, epochs=12)
    answers = holder.oracle.query(holder.images)
    predicted = subtraction.explained(holder.trainer, holder.images, answers)
    hidden = answers[:, :3] - answers[:, :3].mean(1, keepdim=True)
    missed = hidden - predicted[:, :3] + predicted[:, :3].mean(1, keepdim=True)
    assert missed.std() < 0.6 * hidden.std()


def test_subtraction_keeps_the_predictor_out_of_the_students_checkpoint(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    holder = attacker()
    kept = replace(holder.trainer, checkpoint=tmp_path_factory.mktemp("runs") / "student.pt")
    assert torch.equal(told(subtraction.steal, holder), told(subtraction.steal, replace(holder, trainer=kept)))


def test_markov_matrices_begin_near_the_identity_and_stay_stochastic() -> None:
    unmixer = markov.Unmixer(nn.Identity(), 6)
    powers, labels = logits().softmax(1), torch.arange(2000) % 6
    unmixed = unmixer.unmixed(powers, labels)
    assert torch.allclose(unmixed, 0.9 * powers + 0.02 * (1 - powers), atol=1e-5)
    nn.init.normal_(unmixer.matrices)
    assert torch.allclose(unmixer.unmixed(powers, labels).sum(1), torch.ones(2000), atol=1e-5)


def test_markov_matrices_are_trained_with_the_student() -> None:
    seen: list[nn.Module] = []

    class Spy(Trainer):
        def fit(self, *arguments: object) -> nn.Module:  # type: ignore[override]
            seen.append(super().fit(*arguments))  # type: ignore[arg-type]
            return seen[0]

    holder = attacker()
    trainer = Spy(holder.trainer.fabric, small, holder.trainer.recipe, "student")
    markov.steal(replace(holder, trainer=trainer))
    assert isinstance(seen[0], markov.Unmixer)
    assert not torch.equal(seen[0].matrices, markov.Unmixer(nn.Identity(), 4).matrices)


@pytest.mark.parametrize(
    "architecture", ["cifar_resnet20", "mobilenet_v3_small", "squeezenet1_1", "densenet121", "swin_t"]
)
def test_the_skeptic_finds_a_convolution_half_way_through_any_student(architecture: str) -> None:
    assert architecture in architectures()
    student = build(architecture, 4)
    layers = [module for module in student.modules() if isinstance(module, nn.Conv2d)]
    skeptic = skeptical.Skeptic(student, (layers[3 * len(layers) // 4], layers[len(layers) // 2]), 4)
    images = torch.rand(2, 3, 64, 64)
    heads = skeptic.train()(images)
    heads[2].sum().backward()
    assert heads.shape == (3, 2, 4)
    assert layers[0].weight.grad is not None
    assert torch.equal(skeptic.eval()(images), student(images))
    assert not any("_layers" in name for name in skeptic.state_dict())


def test_a_student_without_convolutions_is_not_skeptical() -> None:
    holder = attacker()
    dense = replace(holder.trainer, new=lambda: nn.Sequential(nn.Flatten(), nn.Linear(768, 4)))
    holder = replace(holder, trainer=dense)
    plain = told(partial(soft_labels.steal, temperature=4, alpha=0.9), holder)
    assert torch.equal(told(skeptical.steal, holder), plain)


@pytest.mark.parametrize("attack", ["KnockoffNets", "CopycatCNN"])
def test_the_toolbox_learns_vectors_only_when_told_to(attack: str) -> None:
    """ART's classifier can reduce soft labels to their argmax behind one's back."""
    vectors, tops = (next(a for a in ATTACKS if a.name == f"{attack}, {kind}") for kind in ("vectors", "top-1"))

    def unsure(images: Tensor) -> Tensor:
        return F.one_hot(brightness(images).argmax(1), 4).float()

    sure = attacker(lambda images: 20 * unsure(images))
    assert torch.equal(told(tops.steal, attacker(unsure)), told(tops.steal, sure))
    assert not torch.equal(told(vectors.steal, attacker(unsure)), told(vectors.steal, sure))


def test_the_toolboxs_student_is_as_unsure_as_the_vectors_it_learned() -> None:
    def unsure(images: Tensor) -> Tensor:
        return F.one_hot(brightness(images).argmax(1), 4).float()  # probability e/(e+3) = 0.48

    holder = attacker(unsure, images=256, epochs=6)
    vectors, tops = (told(partial(knockoff.steal, use_probability=known), holder) for known in (True, False))
    assert vectors.softmax(1).amax(1).mean() < 0.55
    assert tops.softmax(1).amax(1).mean() > 0.8


def test_art_is_imported_while_another_process_imports_it_for_the_first_time(tmp_path: Path) -> None:
    """ART makes a folder in the home for its settings; here the other process is always a moment faster."""
    script = """
import os
made = os.makedirs

def overtaken(path, *rest, **more):
    made(path, *rest, **more)
    if str(path).endswith(".art"):
        with open(os.path.join(path, "config.json"), "w") as file:
            file.write("{}")
        raise FileExistsError(path)

os.makedirs = overtaken
from models.attacks import copycat, knockoff
"""
    own_home = {"HOME": str(tmp_path)}
    found = subprocess.run([sys.executable, "-c", script], env=own_home, capture_output=True, text=True, check=False)  # noqa: S603 - of this file
    assert found.returncode == 0, found.stderr
    assert (tmp_path / ".art" / "config.json").exists()
