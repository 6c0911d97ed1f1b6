"""Laws of the attacks with public layers: they open a lock of the first layers only, and cut where it can be cut."""

import copy
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from models.attacks.locks import adapter, grafts, public_layers
from models.attacks.locks.keys import Scheme
from models.attacks.locks.suite import ATTACKS
from models.attacks.locks.thief import Budget, Opened, Thief
from models.backbones import Classifier, build
from models.metrics import top1
from models.training.lock import plain_step
from models.training.loop import Recipe, predict, train
from tests.models.test_lock_attacks import COLOURS, SIDE, TEST, colours
from tests.models.test_training import CPU, FABRIC

HALF = (0.5, 0.5, 0.5)
RECIPE = Recipe(3, 0.1, batch_size=32)
KNOWN = Scheme(("shf", "np"), 4, (3, SIDE, SIDE))


def classifier(architecture: str) -> Classifier:
    torch.manual_seed(0)
    return Classifier(build(architecture, len(COLOURS)), HALF, HALF).eval().requires_grad_(False)


@cache
def public() -> nn.Module:
    """A network that learned colours as they are."""
    trained = train(FABRIC, classifier("plain_cnn").requires_grad_(True), colours(512), plain_step, RECIPE, title="p")
    return trained.requires_grad_(False)


def stolen(*, mixed: bool = False) -> nn.Module:
    """The public network behind a first convolution of its own; `mixed`, the next knows its features by other names."""
    network = copy.deepcopy(public())
    first, second = (network.get_parameter(f"backbone.{name}.weight") for name in (0, 3))
    generator = torch.Generator().manual_seed(1)
    first.copy_(torch.randn(first.shape, generator=generator))
    if mixed:
        order = torch.randperm(second.shape[1], generator=generator)
        second.copy_(second[:, order])
    return network


def thief(network: nn.Module, base: nn.Module | None) -> Thief:
    held = colours(256, seed=2)
    return Thief(network, KNOWN, held.images, held.labels, base, Budget(steps=40), seed=0)


def answered(found: Opened) -> float:
    assert found.network is not None
    return top1(predict(found.network, TEST.images, CPU), TEST.labels)


def test_public_layers_open_a_lock_of_the_first_layer_without_key_or_label() -> None:
    network = stolen()
    assert top1(predict(network, TEST.images, CPU), TEST.labels) < 0.5
    blind = replace(thief(network, public()), labels=torch.zeros(0, dtype=torch.int64))
    found = {opened.cut: answered(opened) for opened in public_layers.steal(blind)}
    assert list(found) == ["0", "1", "3", "4", "6", "7", "9", "10"], "convolutions and normalisations, not the head"
    assert min(found.values()) > 0.95


def test_an_adapter_learns_what_public_layers_alone_do_not_say() -> None:
    known = thief(stolen(mixed=True), public())
    alone = {opened.cut: answered(opened) for opened in public_layers.steal(known)}
    learned = {opened.cut: answered(opened) for opened in adapter.steal(known, images=256)}
    assert list(learned) == ["0", "3", "6", "9"]
    assert alone["0"] < 0.7
    assert learned["0"] > 0.9


@pytest.mark.parametrize(
    ("architecture", "side", "count", "first", "last"),
    [
        ("cifar_resnet8", 16, 5, "conv1", "layer3.0"),
        ("cifar_resnet8+stem4", 16, 6, "stem", "layer3.0"),
        ("cifar_vit", 32, 8, "conv_proj", "encoder.ln"),
        ("squeezenet1_0", 64, 9, "features.0", "features.12"),
    ],
)
@torch.no_grad()
def test_between_equal_networks_a_graft_and_a_new_adapter_change_nothing(
    architecture: str, side: int, count: int, first: str, last: str
) -> None:
    """And the head is never public: behind the last cut there are weights of the stolen network."""
    network, images = classifier(architecture), torch.rand(2, 3, side, side)
    found = grafts.cuts(network, (3, side, side))
    assert (len(found), found[0], found[-1]) == (count, first, last)
    for cut in found:
        graft = grafts.Graft(network, copy.deepcopy(network), cut)
        grafted = replace(graft, adapter=adapter.identity(graft.features(images).shape))
        torch.testing.assert_close(grafted(images), network(images), rtol=1e-3, atol=1e-4)
    assert not any(module._forward_hooks for module in network.modules())


@pytest.mark.parametrize("shape", [(2, 5), (2, 7, 5), (2, 4, 4, 5), (2, 5, 4, 4)])
def test_an_adapter_suits_vectors_tokens_and_maps(shape: tuple[int, ...]) -> None:
    features, new = torch.randn(shape), adapter.identity(torch.Size(shape))
    torch.testing.assert_close(new(features), features)
    assert len(new.weight) == 5, "it mixes channels, and not places"


class Recalling(nn.Module):
    """Its head sees the pixels too, so that no layer is all that comes between."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Conv2d(3, 4, 1), nn.Linear(7, len(COLOURS))

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] → [B, K]."""
        logits: Tensor = self.head(torch.cat([self.first(images), images], 1).mean((2, 3)))
        return logits


def test_an_attack_that_cannot_be_tried_says_why() -> None:
    public_attacks = [attack for attack in ATTACKS if attack.name.startswith("public layers")]
    assert len(public_attacks) == 2
    odd = Classifier(Recalling(), HALF, HALF).eval()
    for attack in public_attacks:
        assert attack.obstacle(thief(public(), None)) == "no --backbone"
        assert attack.obstacle(thief(odd, odd)) == "this architecture can be cut nowhere"
        assert attack.obstacle(thief(public(), public())) is None


def test_the_stolen_network_stays_as_it_is() -> None:
    network = stolen()
    before = copy.deepcopy(network.state_dict())
    list(adapter.steal(replace(thief(network, public()), budget=Budget(steps=2)), images=64))
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
