"""Laws of training: it learns, it can be stopped anywhere, and what is resumed ends where it would have ended."""

import signal
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional as F

from models import bundles
from models.backbones import Classifier, build
from models.bundles import GuardSpec, InputSpec, Manifest
from models.data import LabelledImages
from models.key_stream import fingerprint
from models.losses import knowledge_disturbance
from models.metrics import agreement, top1
from models.normalisation import Pair
from models.release import Release
from models.training.loop import Batch, CheckpointMismatch, Interrupted, Recipe, Step, predict, train
from models.training.student import distilling, shown
from models.training.wrap import Mixture, box_step
from models.views import random_views
from tests.conftest import SECRET, smooth_images

CPU = torch.device("cpu")
FABRIC = Fabric(accelerator="cpu", devices=1)


def shades(count: int, seed: int = 0) -> LabelledImages:
    """Four classes by the brightness of smooth images: easy enough for a few steps."""
    labels = torch.randint(0, 4, (count,), generator=torch.Generator().manual_seed(seed))
    images = smooth_images(count, seed=seed) // 4 + (labels * 60).to(torch.uint8).view(-1, 1, 1, 1)
    return LabelledImages(images, labels, ("night", "dusk", "dawn", "noon"))


def classifier(seed: int = 0) -> Classifier:
    torch.manual_seed(seed)
    return Classifier(build("cifar_resnet8", 4), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def learn(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    return {"ce": F.cross_entropy(model(random_views(batch.images, batch.generator)), batch.labels)}


def interrupted_at(number: int) -> Step:
    """A step that meets Ctrl-C the `number`th time."""
    calls = 0

    def step(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        nonlocal calls
        calls += 1
        if calls == number:
            signal.raise_signal(signal.SIGINT)
        return learn(model, batch)

    return step


def test_it_learns() -> None:
    model = train(FABRIC, classifier(), shades(256), learn, Recipe(6, 0.1, batch_size=32), title="t")
    test = shades(256, seed=1)
    assert top1(predict(model, test.images, CPU), test.labels) > 0.8


@pytest.mark.parametrize("step", [1, 3, 4, 7])
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(tmp_path: Path, step: int) -> None:
    recipe, data, checkpoint = Recipe(2, 0.05, batch_size=32), shades(140), tmp_path / "run" / "t.pt"
    whole = train(FABRIC, classifier(), data, learn, recipe, title="t")
    with pytest.raises(Interrupted, match=f"after {step} of 8 steps"):
        train(FABRIC, classifier(), data, interrupted_at(step), recipe, title="t", checkpoint=checkpoint)
    resumed = train(FABRIC, classifier(seed=1), data, learn, recipe, title="t", checkpoint=checkpoint)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    recipe, data = Recipe(1, 0.05, batch_size=32), shades(64)
    first = train(FABRIC, classifier(), data, learn, recipe, title="t", checkpoint=tmp_path / "t.pt")
    again = train(FABRIC, classifier(1), data, interrupted_at(1), recipe, title="t", checkpoint=tmp_path / "t.pt")
    assert torch.equal(first.state_dict()["backbone.linear.weight"], again.state_dict()["backbone.linear.weight"])


def test_a_checkpoint_of_another_recipe_is_not_resumed(tmp_path: Path) -> None:
    data = shades(64)
    train(FABRIC, classifier(), data, learn, Recipe(1, 0.05, batch_size=32), title="t", checkpoint=tmp_path / "t.pt")
    with pytest.raises(CheckpointMismatch, match="another run"):
        train(FABRIC, classifier(), data, learn, Recipe(1, 0.1, batch_size=32), title="t", checkpoint=tmp_path / "t.pt")


def test_a_checkpoint_of_another_kind_of_training_is_not_resumed(tmp_path: Path) -> None:
    recipe, data, checkpoint = Recipe(1, 0.05, batch_size=32), shades(64), tmp_path / "t.pt"
    train(FABRIC, classifier(), data, learn, recipe, title="t", identity={"lam": 0.9}, checkpoint=checkpoint)
    with pytest.raises(CheckpointMismatch):
        train(FABRIC, classifier(), data, learn, recipe, title="t", identity={"lam": 0.5}, checkpoint=checkpoint)
    with pytest.raises(CheckpointMismatch):
        train(FABRIC, classifier(), shades(96), learn, recipe, title="t", identity={"lam": 0.9}, checkpoint=checkpoint)


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04"])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.pt").write_bytes(content)
    with pytest.raises(CheckpointMismatch, match=r"t\.pt is damaged; delete it"):
        train(FABRIC, classifier(), shades(64), learn, Recipe(1, 0.1), title="t", checkpoint=tmp_path / "t.pt")


def test_every_step_of_every_epoch_and_seed_draws_its_own_views() -> None:
    seen: list[tuple[float, ...]] = []

    def step(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        seen.append(tuple(torch.rand(4, generator=batch.generator).tolist()))
        return learn(model, batch)

    for seed in (0, 1):
        train(FABRIC, classifier(), shades(64), step, Recipe(3, 0.05, batch_size=32, seed=seed), title="t")
    assert len(set(seen)) == len(seen) == 12


def test_ctrl_c_means_ctrl_c_again_afterwards() -> None:
    before = signal.getsignal(signal.SIGINT)
    train(FABRIC, classifier(), shades(64), learn, Recipe(1, 0.05, batch_size=32), title="t")
    assert signal.getsignal(signal.SIGINT) == before


@pytest.mark.slow
def test_the_box_learns_to_answer_right_with_the_key_and_to_teach_wrong_without() -> None:
    data, test = shades(256), shades(256, seed=1)
    teacher = train(FABRIC, classifier(), data, learn, Recipe(6, 0.1, batch_size=32), title="teacher")
    manifest = Manifest(
        name="t",
        architecture="cifar_resnet8",
        classes=data.classes,
        input=InputSpec(height=32, width=32, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)),
        guard=GuardSpec(own_normalisation=True, secret_fingerprint=fingerprint(SECRET)),
    )
    box = bundles.assemble(manifest, SECRET)
    for network in (box.network, box.keyed_network):
        network.load_state_dict(teacher.state_dict())
    box.release.calibrate(data.images)
    box.eval()
    disturbing = Release(bytes(32), 4, confidences=(0.9,))
    disturbing.load_state_dict(box.release.state_dict())
    step = box_step(teacher.requires_grad_(False), box, disturbing, temperature=4.0, mixture=Mixture(disturbance=0.5))
    pair = Pair(box.network, box.keyed_network)
    train(FABRIC, pair, data, step, Recipe(6, 0.05, batch_size=32), title="box")
    box.eval()

    def keyed(images: Tensor) -> Tensor:
        answer: Tensor = box(images, torch.ones(len(images), dtype=torch.bool))
        return answer

    def disturbed(logits: Tensor) -> float:
        """How far the dark knowledge of `logits` is from the false one."""
        images = test.images.float() / 255
        false = disturbing(images, F.one_hot(test.labels, 4).float())
        return knowledge_disturbance(logits, false, 4.0).item()

    bare, own = predict(teacher, test.images, CPU), predict(keyed, test.images, CPU)
    stolen = predict(box.without_key, test.images, CPU)
    assert top1(own, test.labels) > 0.7
    assert agreement(own, bare) > 0.7
    assert top1(stolen, test.labels) > 0.7
    assert disturbed(stolen) < 0.8 * disturbed(bare)


@pytest.mark.slow
def test_a_student_without_labels_learns_from_soft_labels_alone() -> None:
    data, test = shades(512), shades(256, seed=1)
    soft = 8 * F.one_hot(data.labels, 4).float()
    unlabelled = LabelledImages(data.images, torch.zeros_like(data.labels), data.classes)
    step = distilling(soft, temperature=4, alpha=1)
    student = train(FABRIC, classifier(), unlabelled, step, Recipe(6, 0.1, 32), title="s")
    assert top1(predict(student, test.images, CPU), test.labels) > 0.7


def test_views_are_shown_one_an_epoch_and_again_from_the_first() -> None:
    data, seen = shades(64), []
    drawn = torch.stack([torch.full_like(data.images, number) for number in (10, 20, 30)])

    class Watching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(1, 4)

        def forward(self, images: Tensor) -> Tensor:
            seen.append(round(images.mean().item() * 255))
            logits: Tensor = self.linear(images.mean((1, 2, 3), keepdim=True).flatten(1))
            return logits

    step = shown(drawn, torch.zeros(3, 64, 4), 5, temperature=4, alpha=0.9)
    train(FABRIC, Watching(), data, step, Recipe(5, 0.01, batch_size=32), title="s")
    assert seen == [10, 10, 20, 20, 30, 30, 10, 10, 20, 20]
