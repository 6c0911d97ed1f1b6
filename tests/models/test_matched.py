"""Laws of the matched lock: the locked transformer answers transformed images as the plain one does plain images."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from models.backbones import Classifier, build
from models.lock import PixelLock, lock_transform
from models.matched import MatchError, matched
from tests.conftest import SECRET, smooth_images

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ZEROS, ONES = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
SCHEMES = [
    ("shf",),
    ("np",),
    ("scramble",),
    ("shf", "np"),
    ("np", "shf"),
    ("shf", "np", "scramble"),
    ("scramble", "np"),
]


def vit(architecture: str = "cifar_vit") -> nn.Module:
    """A transformer with random weights, in the head too, which torchvision begins with zeros."""
    torch.manual_seed(0)
    network = build(architecture, 10).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.startswith("heads."):
                parameter.normal_(std=0.3)
    return network


def images(count: int, side: int = 32) -> Tensor:
    return smooth_images(count, side, seed=1).float() / 255


def pair(
    steps: tuple[str, ...], side: int = 32, architecture: str = "cifar_vit"
) -> tuple[nn.Module, nn.Module, PixelLock]:
    """(plain model, locked model, lock), all of which take images in [0, 1]."""
    network, transform = vit(architecture), lock_transform(SECRET, "t", steps, 4 if side == 32 else 16)
    locked = matched(network, transform, MEAN, STD)
    return Classifier(network, MEAN, STD), Classifier(locked, ZEROS, ONES), PixelLock(transform, (3, side, side))


@pytest.mark.parametrize("steps", SCHEMES, ids="+".join)
@torch.inference_mode()
def test_the_logits_are_those_of_the_plain_model(steps: tuple[str, ...]) -> None:
    plain, locked, lock = pair(steps)
    batch = images(12)
    expected, found = plain(batch), locked(lock(batch))
    assert expected.std() > 1, "the model tells images apart"
    assert (expected - found).abs().max() < 1e-4
    assert torch.equal(expected.argmax(1), found.argmax(1))


@torch.inference_mode()
def test_torchvisions_own_transformer_is_matched_as_well() -> None:
    plain, locked, lock = pair(("shf", "np", "scramble"), 224, "vit_b_16")
    batch = images(2, 224)
    assert (plain(batch) - locked(lock(batch))).abs().max() < 1e-4


@torch.inference_mode()
def test_a_plain_image_or_another_key_gets_a_useless_answer() -> None:
    plain, locked, _ = pair(("shf", "np", "scramble"))
    other = PixelLock(lock_transform(bytes(32), "t", ("shf", "np", "scramble"), 4), (3, 32, 32))
    batch = images(24)
    known = plain(batch)
    for wrong in (locked(batch), locked(other(batch))):
        assert (known - wrong).abs().mean() > known.std() / 2
        assert (known.argmax(1) == wrong.argmax(1)).float().mean() < 0.5


@torch.inference_mode()
def test_normalisation_by_channel_after_the_shuffle_breaks_it() -> None:
    """The published demonstration does this (importLin/infer_encrypted_img_demo); the shuffle mixes the channels."""
    plain, _, lock = pair(("shf",))
    unfolded = matched(vit(), lock.transform, ZEROS, ONES)
    batch = images(12)
    assert (plain(batch) - Classifier(unfolded, MEAN, STD)(lock(batch))).abs().max() > 0.1


@torch.inference_mode()
def test_a_transformed_image_that_was_sent_as_jpeg_is_another_image() -> None:
    plain, locked, lock = pair(("shf", "np"))
    pixels = smooth_images(8, seed=1).permute(0, 2, 3, 1).numpy()
    sent = []
    for transformed in lock.transform.apply(pixels):
        buffer = io.BytesIO()
        Image.fromarray(transformed).save(buffer, "JPEG", quality=90)
        sent.append(np.asarray(Image.open(buffer)))
    received = torch.from_numpy(np.stack(sent)).permute(0, 3, 1, 2).float() / 255
    lossless = torch.from_numpy(lock.transform.apply(pixels)).permute(0, 3, 1, 2).float() / 255
    known = plain(images(8))
    assert (known - locked(lossless)).abs().max() < 1e-4
    assert (known - locked(received)).abs().max() > 0.1


def test_the_plain_network_stays_as_it_was() -> None:
    network = vit()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    after = matched(network, lock_transform(SECRET, "t", ("shf", "np", "scramble"), 4), MEAN, STD).state_dict()
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"conv_proj.weight", "conv_proj.bias", "encoder.pos_embedding"}


@pytest.mark.parametrize(
    ("architecture", "steps", "block", "why"),
    [
        ("cifar_resnet8", ("shf",), 4, "only a vision transformer"),
        ("cifar_vit", ("shf",), 8, "the block is the patch, 4, not 8"),
        ("cifar_vit", ("shf", "ffx"), 4, "the steps shf, np, scramble only"),
        ("cifar_vit", ("shf-each",), 4, "the steps shf, np, scramble only"),
    ],
)
def test_what_cannot_be_matched_is_refused(architecture: str, steps: tuple[str, ...], block: int, why: str) -> None:
    with pytest.raises(MatchError, match=why):
        matched(build(architecture, 10), lock_transform(SECRET, "t", steps, block), MEAN, STD)
