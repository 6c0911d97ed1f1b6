"""Laws of the Safe Distillation Box around any classifier."""

import pytest
import torch
from torch import nn

from models.backbones import Classifier, build
from models.guard import SafeDistillationBox, embed
from models.key_stream import key_image
from models.lock import PixelLock, lock_transform
from models.release import Release
from tests.conftest import SECRET, smooth_images

LARGE = [pytest.param(name, marks=pytest.mark.slow) for name in ("vgg11_bn", "vit_b_16")]
ARCHITECTURES = ["cifar_resnet8", "cifar_resnet20", "resnet18", "mobilenet_v2", "squeezenet1_0", *LARGE]
OTHER_SECRET = bytes(range(200, 232))


def make_box(
    architecture: str = "cifar_resnet8", secret: bytes = SECRET, side: int = 32, lock: PixelLock | None = None
) -> SafeDistillationBox:
    torch.manual_seed(0)
    network = Classifier(build(architecture, 10), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    release = Release(secret, 10)
    release.calibrate(smooth_images(512))
    return SafeDistillationBox(network, secret, release, shape=(3, side, side), lock=lock).eval()


def images(count: int, side: int = 32) -> torch.Tensor:
    return smooth_images(count, side, seed=1).float() / 255


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@torch.inference_mode()
def test_any_classifier_serves_both_tiers_in_one_batch(architecture: str) -> None:
    side = 224 if architecture in {"vit_b_16", "vgg11_bn", "squeezenet1_0"} else 32
    box = make_box(architecture, side=side)
    batch, keyed = images(4, side), torch.tensor([True, False, True, False])
    mixed = box(batch, keyed)
    alone = torch.cat([box(batch[i : i + 1], keyed[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(mixed, alone, rtol=1e-3, atol=1e-3)
    assert torch.equal(mixed.argmax(1), box(batch, ~keyed).argmax(1))


@torch.inference_mode()
def test_keyed_rows_are_the_networks_answer_to_the_embedded_image() -> None:
    box, batch = make_box(), images(8)
    embedded = 0.9 * batch + 0.1 * key_image(SECRET, (3, 32, 32))
    torch.testing.assert_close(box(batch, torch.ones(8, dtype=torch.bool)), box.network(embedded))


@torch.inference_mode()
def test_public_rows_keep_the_top1_and_nothing_else_of_the_logits() -> None:
    box, batch = make_box(), images(64)
    keyed = box(batch, torch.ones(64, dtype=torch.bool))
    public = box(batch, torch.zeros(64, dtype=torch.bool))
    assert torch.equal(keyed.argmax(1), public.argmax(1))
    other = nn.functional.one_hot(keyed.argmax(1), 10).float()
    torch.testing.assert_close(public, box.release(batch, other))


@torch.inference_mode()
def test_another_secret_is_another_box() -> None:
    batch, public = images(64), torch.zeros(64, dtype=torch.bool)
    first, second = make_box(), make_box(secret=OTHER_SECRET)
    assert (first.key - second.key).abs().mean() > 0.3
    assert (first(batch, public) - second(batch, public)).abs().mean() > 1


def test_the_secret_is_not_in_the_weights() -> None:
    box = make_box()
    assert not any(
        tensor.shape == box.key.shape and torch.equal(tensor, box.key) for tensor in box.state_dict().values()
    )
    assert {name for name in box.state_dict() if not name.startswith("network.")} == {"release.mean", "release.whiten"}


def test_embedding_blends_row_by_row_with_one_key_or_one_key_each() -> None:
    batch, keys = images(2), images(4)[2:]
    torch.testing.assert_close(embed(batch, keys, 0.5), (batch + keys) / 2)
    torch.testing.assert_close(embed(batch, keys[0], 1.0), batch)


def make_lock() -> PixelLock:
    return PixelLock(lock_transform(SECRET, "tiny", ("shf", "np"), 4), (3, 32, 32))


@torch.inference_mode()
def test_each_row_is_unlocked_or_goes_in_as_it_came() -> None:
    lock, batch = make_lock(), images(8)
    box, everybody = make_box(lock=lock), torch.ones(8, dtype=torch.bool)
    unlocked = torch.tensor([True, False] * 4)
    mixed = box(batch, everybody, unlocked)
    torch.testing.assert_close(mixed[::2], box.network(embed(lock(batch[::2]), box.key, box.lam)))
    torch.testing.assert_close(mixed[1::2], box.network(embed(batch[1::2], box.key, box.lam)))
    torch.testing.assert_close(box(batch, everybody), box(batch, everybody, torch.zeros_like(unlocked)))


@torch.inference_mode()
def test_an_image_that_its_sender_transformed_is_answered_as_one_the_server_unlocks() -> None:
    lock, batch = make_lock(), images(8)
    box, everybody = make_box(lock=lock), torch.ones(8, dtype=torch.bool)
    torch.testing.assert_close(box(lock(batch), everybody), box(batch, everybody, everybody))


@torch.inference_mode()
def test_the_release_stage_sees_the_image_as_it_came() -> None:
    batch = images(16)
    box, nobody = make_box(lock=make_lock()), torch.zeros(16, dtype=torch.bool)
    public = box(batch, nobody, ~nobody)
    torch.testing.assert_close(public, box.release(batch, box.with_key(batch, ~nobody)))


@torch.inference_mode()
def test_a_box_without_a_lock_answers_the_same_whoever_may_unlock() -> None:
    batch, everybody = images(8), torch.ones(8, dtype=torch.bool)
    box = make_box()
    assert torch.equal(box(batch, everybody, everybody), box(batch, everybody))


def test_neither_key_is_among_the_weights_of_a_locked_box() -> None:
    assert make_box(lock=make_lock()).state_dict().keys() == make_box().state_dict().keys()
