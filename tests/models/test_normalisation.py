"""Laws of networks that share all but their normalisation, and of how the keyed one's is kept."""

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from models import bundles
from models.backbones import build
from models.bundles import BundleError, GuardSpec, InputSpec, Manifest
from models.engines.engine import Answering
from models.guard import TWIN, SafeDistillationBox
from models.key_stream import fingerprint
from models.normalisation import Pair, normalisation, recalibrate, twin
from models.sealing import SEALED
from tests.conftest import CLASSES, SECRET, smooth_images

MANIFEST = Manifest(
    name="t",
    architecture="cifar_resnet8",
    classes=CLASSES,
    input=InputSpec(height=32, width=32),
    guard=GuardSpec(own_normalisation=True, secret_fingerprint=fingerprint(SECRET)),
)
IMAGES = smooth_images(8).float() / 255


def described(architecture: str) -> Manifest:
    return MANIFEST.model_copy(update={"architecture": architecture})


def trained(architecture: str = MANIFEST.architecture) -> SafeDistillationBox:
    """A box whose networks have learned something, each for itself."""
    torch.manual_seed(0)
    box = bundles.assemble(described(architecture), SECRET)
    box.release.calibrate(smooth_images(256))
    pair = Pair(box.network, box.keyed_network).train()
    optimizer = torch.optim.SGD(pair.parameters(), lr=0.1)
    bare, keyed = pair(IMAGES, 1 - IMAGES)
    torch.autograd.backward(bare.square().mean() + keyed.var())
    optimizer.step()
    return box.eval().requires_grad_(False)


@pytest.mark.parametrize("architecture", ["cifar_resnet8", "mobilenet_v3_small", "convnext_tiny", "squeezenet1_0"])
def test_a_twin_shares_all_but_the_normalisation(architecture: str) -> None:
    network = build(architecture, 10)
    other = twin(network)
    mine, theirs = dict(network.named_parameters()), dict(other.named_parameters())
    assert list(mine) == list(theirs)
    assert {name for name in mine if mine[name] is not theirs[name]} == set(normalisation(network)) & set(mine)


def test_training_moves_both_and_each_keeps_statistics_of_its_own() -> None:
    box = trained()
    network, keyed = box.network.state_dict(), box.keyed_network.state_dict()
    own = set(normalisation(box.network))
    assert all(torch.equal(network[name], keyed[name]) for name in network if name not in own)
    assert not torch.equal(network["backbone.bn1.running_mean"], keyed["backbone.bn1.running_mean"])
    assert not torch.allclose(box.network(IMAGES), box.keyed_network(IMAGES))


def test_a_copy_of_a_box_shares_within_itself_and_with_nobody() -> None:
    box = trained()
    other = copy.deepcopy(box).to(memory_format=torch.channels_last)
    assert other.network.get_parameter("backbone.conv1.weight") is other.keyed_network.get_parameter(
        "backbone.conv1.weight"
    )
    nn.init.zeros_(other.network.get_parameter("backbone.conv1.weight"))
    assert box.network.get_parameter("backbone.conv1.weight").any()


@pytest.mark.parametrize("architecture", ["cifar_resnet8", "squeezenet1_1"])
def test_a_bundle_gives_both_networks_to_who_has_the_secret(architecture: str, tmp_path: Path) -> None:
    """SqueezeNet normalises nothing, so there the twin is the network."""
    box = trained(architecture)
    manifest = bundles.save(tmp_path, described(architecture), box.state_dict(), SECRET)
    again = bundles.restore(manifest, bundles.load(tmp_path)[1], SECRET).eval()
    rows = torch.ones(8, dtype=torch.bool)
    assert torch.equal(again(IMAGES, rows), box(IMAGES, rows))
    assert torch.equal(again.without_key(IMAGES), box.without_key(IMAGES))


def test_a_thief_of_the_weights_sees_nothing_of_it(tmp_path: Path) -> None:
    box = trained()
    bundles.save(tmp_path, MANIFEST, box.state_dict(), SECRET)
    found = load_file(tmp_path / bundles.WEIGHTS)
    assert not [name for name in found if name.startswith(TWIN)]
    content = found[SEALED].numpy().tobytes()
    for name, tensor in normalisation(box.keyed_network).items():
        if tensor.numel() > 1 and not torch.equal(tensor, box.network.state_dict()[name]):
            assert tensor.numpy().tobytes()[:16] not in content


def test_what_was_sealed_with_another_secret_or_damaged_is_refused(tmp_path: Path) -> None:
    bundles.save(tmp_path, MANIFEST, trained().state_dict(), bytes(32))
    with pytest.raises(BundleError, match="another secret"):
        bundles.restore(MANIFEST, bundles.load(tmp_path)[1], SECRET)
    bundles.save(tmp_path, MANIFEST, trained().state_dict(), SECRET)
    tensors = bundles.load(tmp_path)[1]
    tensors[SEALED][40] += 1
    with pytest.raises(BundleError, match="damaged"):
        bundles.restore(MANIFEST, tensors, SECRET)
    del tensors[SEALED]
    with pytest.raises(BundleError, match="do not fit"):
        bundles.restore(MANIFEST, tensors, SECRET)


@pytest.mark.parametrize("count", [1, 201, 400])
def test_every_image_counts_alike_where_statistics_are_taken_anew(count: int) -> None:
    images = smooth_images(count)
    images[-1] = 255
    network = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4)).eval()
    recalibrate(network, images)
    with torch.no_grad():
        expected = network[0](images.float() / 255).mean((0, 2, 3))
    torch.testing.assert_close(network.get_buffer("1.running_mean"), expected, atol=2e-3, rtol=0)


def test_a_single_image_is_never_a_batch_and_a_failure_leaves_the_network_as_it_was() -> None:
    """Of 401 images two batches of 200 would leave one; batch normalisation of 1 x 1 maps refuses it."""
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(3)).eval()
    recalibrate(network, smooth_images(401))
    with pytest.raises(ValueError, match="more than 1 value"):
        recalibrate(network, smooth_images(1))
    norm = network[1]
    assert isinstance(norm, nn.BatchNorm2d)
    assert not norm.training
    assert norm.momentum == 0.1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_what_is_not_bytes_is_no_seal(dtype: torch.dtype) -> None:
    with pytest.raises(BundleError, match="not bytes"):
        bundles.restore(MANIFEST, {SEALED: torch.zeros(64, dtype=dtype)}, SECRET)


def test_no_public_table_of_the_twin_is_taken_for_a_secret() -> None:
    """Swin V2 has such tables: buffers of the weights, which the box's state holds once."""
    network = build("cifar_resnet8", 10)
    network.register_buffer("table", torch.ones(1, 2, 2, 1))
    release = bundles.assemble(MANIFEST, SECRET).release
    box = SafeDistillationBox(network, SECRET, release, shape=(3, 32, 32), own_normalisation=True)
    box.to(memory_format=torch.channels_last)
    assert "box.key" in Answering(box).secrets
    assert not [name for name in Answering(box).secrets if "table" in name]
