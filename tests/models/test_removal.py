"""Laws of taking layers out: between equal networks it changes nothing, and a locked one learns to refuse."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from models import bundles
from models.backbones import Classifier, build, stemmed
from models.bundles import GuardSpec, InputSpec, LockSpec, Manifest
from models.data import LabelledImages
from models.key_stream import fingerprint
from models.lock import PixelLock, lock_transform
from models.metrics import top1
from models.normalisation import Pair
from models.stem import stem_of, undo
from models.training.figures import served
from models.training.lock import locked_step, plain_step
from models.training.loop import Recipe, predict, train
from models.training.refusal import Refusal, Refusing
from models.training.removal import Answering, Removal, stages
from models.training.wrap import Mixture, box_step
from tests.conftest import SECRET
from tests.models.test_lock_training import CPU, FABRIC, shades

HALF = (0.5, 0.5, 0.5)
KEY = PixelLock(lock_transform(SECRET, "t", ("shf", "np"), 4), (3, 8, 8))


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
    all_at_once = removal.answers(locked, images[:1], images[1:], torch.Generator())
    for answers in [all_at_once, *(opened(images) for opened in removal.opened(locked))]:
        torch.testing.assert_close(answers, public(images), rtol=1e-4, atol=1e-4)
    assert not any(layer._forward_hooks for layer in stages(locked).values())


@pytest.mark.parametrize(("rows", "stem", "each"), [(4, 2, {0, 1}), (10, 5, {1}), (14, 7, {1, 2})])
@torch.no_grad()
def test_no_layer_is_always_left_out_however_few_the_rows(rows: int, stem: int, each: set[int]) -> None:
    """Of five layers behind the stem: else the network would learn to refuse the first of them only."""
    counted: list[list[int]] = []

    class Counting(Removal):
        def _changed_over(self, network: Answering, images: Tensor, plain: Tensor, counts: Sequence[int]) -> Tensor:
            counted.append(list(counts))
            return super()._changed_over(network, images, plain, counts)

    locked, images, draw = behind_a_stem("cifar_resnet8"), torch.rand(rows, 3, 8, 8), torch.Generator().manual_seed(0)
    removal = Counting(locked, behind_a_stem("cifar_resnet8"))
    for _ in range(30):
        assert len(removal.answers(locked, images[:1], images, draw)) == 1 + rows
    assert {sum(counts) for counts in counted} == {rows}
    assert {counts[0] for counts in counted} == {stem}
    assert {count for counts in counted for count in counts[1:]} == each
    assert all(sum(layer) > 0 for layer in zip(*counted, strict=True))


@pytest.fixture(scope="module")
def plain() -> Classifier:
    """The public network that locks begin from."""
    torch.manual_seed(0)
    bare = Classifier(build("cifar_resnet8", 4), HALF, HALF)
    train(FABRIC, bare, small_shades(512), plain_step, Recipe(2, 0.1, batch_size=32), title="p")
    return bare


def public_of(plain: Classifier) -> Classifier:
    """The same behind a stem that is the identity."""
    public = behind_a_stem("cifar_resnet8")
    public.load_state_dict({**public.state_dict(), **plain.state_dict()})
    return public.requires_grad_(False)


def begun(plain: Classifier) -> Classifier:
    """A lock as its training begins: behind its key's exact inverse."""
    locked = public_of(plain).requires_grad_(True)
    undo(stem_of(locked.backbone), KEY.transform, HALF, HALF)
    return locked


def top1_of(network: Callable[[Tensor], Tensor], test: LabelledImages) -> float:
    return top1(predict(network, test.images, CPU), test.labels)


def test_a_stolen_network_without_its_stem_says_nothing_once_it_has_learned_to(plain: Classifier) -> None:
    data, test = small_shades(512), small_shades(256, seed=1)
    locked = begun(plain)
    removal = Removal(locked, public_of(plain))
    assert removal.figures(locked, test, CPU)["top1_without_stem"] > 0.8

    step = locked_step(Refusing(KEY, Refusal(), removal))
    learned = train(FABRIC, locked, data, step, Recipe(8, 0.05, batch_size=32), title="l")
    assert top1_of(lambda images: learned(KEY(images)), test) > 0.7
    assert max(removal.figures(learned, test, CPU).values()) < 0.5


@pytest.mark.parametrize("refuses", [True, False])
def test_a_box_around_a_lock_goes_on_refusing(plain: Classifier, refuses: bool) -> None:
    """Both of its passes, as they are trained; a box that is not told to answers who goes around the stem."""
    data, test = small_shades(512), small_shades(256, seed=1)
    manifest = Manifest(
        name="t",
        architecture=stemmed("cifar_resnet8", 4),
        classes=data.classes,
        input=InputSpec(height=8, width=8, mean=HALF, std=HALF),
        guard=GuardSpec(own_normalisation=True, passes=1, secret_fingerprint=fingerprint(SECRET)),
        lock=LockSpec(steps=("shf", "np"), block=4),
    )
    box = bundles.assemble(manifest, SECRET)
    locked = begun(plain)
    for network in (box.network, box.keyed_network):
        network.load_state_dict(locked.state_dict())
    box.release.calibrate(data.images)
    teacher = nn.Sequential(KEY, locked.eval()).requires_grad_(False)
    around = Removal(box.network, public_of(plain))
    step = box_step(
        teacher,
        copy.deepcopy(box).requires_grad_(False),
        copy.deepcopy(box.release),
        temperature=4.0,
        mixture=Mixture(),
        refusing=Refusing(KEY, Refusal(), around) if refuses else None,
    )
    train(FABRIC, Pair(box.network, box.keyed_network), data, step, Recipe(6, 0.1, batch_size=32), title="b")
    box.eval()
    assert top1_of(lambda images: served(box, images), test) > 0.7
    assert (max(around.figures(box.network, test, CPU).values()) < 0.5) == refuses
    assert (top1_of(box.with_key, test) < 0.5) or not refuses
