"""Laws of taking layers out: between equal networks it changes nothing, and a locked one learns to refuse."""

import copy
from dataclasses import replace

import pytest
import torch

from models.backbones import Classifier, build, stemmed
from models.data import LabelledImages
from models.lock import PixelLock, lock_transform
from models.metrics import top1
from models.stem import stem_of, undo
from models.training.lock import Refusal, locked_step, plain_step
from models.training.loop import Recipe, predict, train
from models.training.removal import Removal, stages
from tests.conftest import SECRET
from tests.models.test_lock_training import CPU, FABRIC, shades

HALF = (0.5, 0.5, 0.5)


def small_shades(count: int, seed: int = 0) -> LabelledImages:
    """`shades` of 8 by 8 pixels: four blocks each."""
    data = shades(count, seed)
    return replace(data, images=data.images[..., ::2, ::2].contiguous())


def behind_a_stem(architecture: str) -> Classifier:
    torch.manual_seed(0)
    return Classifier(build(stemmed(architecture, 4), 4), HALF, HALF).eval()


@pytest.mark.parametrize(
    ("architecture", "side", "layers"),
    [
        ("cifar_resnet20", 16, 12),
        ("mobilenet_v2", 32, 20),
        ("squeezenet1_0", 64, 16),
    ],
)
@torch.no_grad()
def test_changing_over_between_equal_networks_changes_nothing_behind_any_layer(
    architecture: str, side: int, layers: int
) -> None:
    """Every layer that `stages` names is on the one way from the image to the answer."""
    locked = behind_a_stem(architecture)
    public = copy.deepcopy(locked)
    removal, images = Removal(locked, public), torch.rand(2, 3, side, side)
    assert len(stages(locked)) == layers
    all_at_once = removal.answers(locked, images[:1], images[1:])
    for answers in [all_at_once, *(opened(images) for opened in removal.opened(locked))]:
        torch.testing.assert_close(answers, public(images), rtol=1e-4, atol=1e-4)
    assert not any(layer._forward_hooks for layer in stages(locked).values())


def test_a_stolen_network_without_its_stem_says_nothing_once_it_has_learned_to() -> None:
    torch.manual_seed(0)
    data, test = small_shades(512), small_shades(256, seed=1)
    bare = Classifier(build("cifar_resnet8", 4), HALF, HALF)
    plain = train(FABRIC, bare, data, plain_step, Recipe(2, 0.1, batch_size=32), title="p")
    public, locked = behind_a_stem("cifar_resnet8"), behind_a_stem("cifar_resnet8")
    for network in (public, locked):
        network.load_state_dict({**network.state_dict(), **plain.state_dict()})
    key = PixelLock(lock_transform(SECRET, "t", ("shf", "np"), 4), (3, 8, 8))
    undo(stem_of(locked.backbone), key.transform, HALF, HALF)
    removal = Removal(locked, public.requires_grad_(False))
    assert removal.figures(locked, test, CPU)["top1_without_stem"] > 0.8

    step = locked_step(key, Refusal(), removal)
    learned = train(FABRIC, locked, data, step, Recipe(3, 0.1, batch_size=32), title="l")
    assert top1(predict(lambda images: learned(key(images)), test.images, CPU), test.labels) > 0.7
    assert max(removal.figures(learned, test, CPU).values()) < 0.5
