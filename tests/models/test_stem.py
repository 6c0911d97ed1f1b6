"""Laws of the stem: it undoes any key of its steps exactly, is nothing before that, and travels with the weights."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from models import bundles
from models.backbones import Classifier, build, stemmed, takes_stem
from models.bundles import BundleError
from models.lock import PixelLock, lock_transform
from models.stem import StemError, stem_of, undo, with_stem
from tests.conftest import SECRET, smooth_images

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)


def key(block: int, *steps: str) -> PixelLock:
    return PixelLock(lock_transform(SECRET, "t", steps, block), (3, 32, 32))


def pair(block: int) -> tuple[nn.Module, nn.Module]:
    """A network, and the same behind a stem, in evaluation mode."""
    torch.manual_seed(0)
    bare, behind = build("cifar_resnet8", 10), build(stemmed("cifar_resnet8", block), 10)
    behind.load_state_dict(bare.state_dict())
    return bare.eval(), behind.eval()


@pytest.mark.parametrize("block", [2, 4, 8])
@pytest.mark.parametrize("steps", [("shf",), ("np",), ("shf", "np"), ("np", "shf")])
@torch.no_grad()
def test_the_plain_networks_answers_come_out_of_transformed_images(block: int, steps: tuple[str, ...]) -> None:
    bare, behind = pair(block)
    lock, images = key(block, *steps), smooth_images(4, 32).float() / 255
    undo(stem_of(behind), lock.transform, MEAN, STD)
    plain, locked = Classifier(bare, MEAN, STD), Classifier(behind, HALF, HALF)
    torch.testing.assert_close(locked(lock(images)), plain(images), rtol=1e-4, atol=1e-4)
    assert (locked(images) - plain(images)).abs().max() > 0.01


@torch.no_grad()
def test_a_new_stem_changes_nothing_and_bare_weights_load_behind_it() -> None:
    bare, behind = pair(4)
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(behind(images), bare(images))


def test_a_stem_travels_with_the_weights(tmp_path: Path) -> None:
    _, behind = pair(4)
    undo(stem_of(behind), key(4, "shf", "np").transform, MEAN, STD)
    save_file(behind.state_dict(), tmp_path / "w.safetensors")
    found = bundles.load_backbone("cifar_resnet8+stem4", 10, tmp_path / "w.safetensors")
    assert torch.equal(stem_of(found).weight, stem_of(behind).weight)
    other = bundles.load_backbone("cifar_resnet8+stem4", 7, tmp_path / "w.safetensors", new_head=True)
    assert torch.equal(stem_of(other).weight, stem_of(behind).weight)


@pytest.mark.parametrize("step", ["ffx", "scramble", "shf-each", "np-each"])
def test_what_is_no_map_of_a_block_is_refused(step: str) -> None:
    _, behind = pair(4)
    with pytest.raises(StemError, match="shf, np only"):
        undo(stem_of(behind), key(4, step).transform, MEAN, STD)


@pytest.mark.parametrize("block", ["", "0", "3", "-4", "4096", "4+stem4"])
def test_a_stem_is_for_the_blocks_that_transforms_have(block: str) -> None:
    with pytest.raises(ValueError, match="for blocks of 2, 4, 8, 16, not"):
        build(f"cifar_resnet8+stem{block}", 10)


def test_a_bare_chain_takes_no_stem_and_a_bare_network_has_none(tmp_path: Path) -> None:
    with pytest.raises(StemError, match="PlainCnn takes no stem"):
        with_stem(build("plain_cnn", 10), 4)
    with pytest.raises(StemError, match="RegNet takes no stem"):
        with_stem(build("regnet_y_400mf", 10), 4)  # it has one of its own
    with pytest.raises(StemError, match="has no stem"):
        stem_of(build("cifar_resnet8", 10))
    save_file(build("plain_cnn", 10).state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(BundleError, match="takes no stem"):
        bundles.load_backbone("plain_cnn+stem4", 10, tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    ("architecture", "taken"),
    [("cifar_resnet20", True), ("mobilenet_v2", True), ("plain_cnn", False), ("regnet_y_400mf", False), ("no", False)],
)
def test_which_networks_take_a_stem(architecture: str, taken: bool) -> None:
    assert takes_stem(architecture) is taken
