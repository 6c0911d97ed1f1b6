"""The first layers of a public network grafted onto the rest of a stolen one that was locked from the same weights.

Plain images go through the public layers, their features through the stolen ones. Knows where a network can be cut;
knows no key and no label.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from models.attacks.locks.thief import Network, Thief, as_it_is
from models.training.removal import stages

NEARLY = 1e-3  # of the largest logit: rounding, and no more


@dataclass(frozen=True)
class Graft:
    """Plain images [B, C, H, W] in [0, 1] → logits [B, K]: public layers up to `cut`, an adapter, the stolen rest."""

    public: nn.Module
    stolen: nn.Module
    cut: str
    adapter: Network = as_it_is

    def __call__(self, images: Tensor) -> Tensor:
        """The logits; no gradient goes further back than the adapter."""
        return self.rest(images, self.adapter(self.features(images)))

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """What the public layers make of images, [B, ...]."""
        kept: list[Tensor] = []
        # Cloned, because the next layer may work in place.
        with _hooked([stages(self.public)[self.cut]], lambda _, output: kept.append(output.clone())):
            self.public(images)
        return kept[0]

    def rest(self, images: Tensor, features: Tensor) -> Tensor:
        """The logits of `features`, whatever the stolen layers before the cut make of images."""
        with _hooked([stages(self.stolen)[self.cut]], lambda *_: features):
            logits: Tensor = self.stolen(images)
        return logits


def obstacle(thief: Thief) -> str | None:
    """Why nothing can be grafted onto what a thief has, if so."""
    if thief.base is None:
        return "no --backbone"
    return None if cuts(thief.base, thief.scheme.shape) else "this architecture can be cut nowhere"


def grafts(thief: Thief) -> list[Graft]:
    """One graft for each cut, in order.

    Raises:
        ValueError: the thief has no public network.
    """
    if thief.base is None:
        raise ValueError("there are no public layers")
    return [Graft(thief.base, thief.network, cut) for cut in cuts(thief.base, thief.scheme.shape)]


@lru_cache(maxsize=1)
@torch.inference_mode()
def cuts(network: nn.Module, shape: tuple[int, int, int]) -> tuple[str, ...]:
    """The layers of a frozen network for images of `shape` (C, H, W) behind which it can be cut, in order.

    It is tried which these are: there, all that comes later sees of an image is what the layer makes of it. Weights lie
    on either side of a cut, and between any two.
    """
    device = next(network.parameters()).device
    first, other = torch.rand(2, 1, *shape, generator=torch.Generator().manual_seed(0)).to(device)
    expected: Tensor = network(first)
    found: dict[int, str] = {}
    for name, depth in _depths(network, first).items():
        graft = Graft(network, network, name)
        differs = graft.rest(other, graft.features(first)) - expected
        if depth not in found and differs.abs().max() <= NEARLY * expected.abs().max():
            found[depth] = name
    return tuple(found[depth] for depth in sorted(found))


def _depths(network: nn.Module, images: Tensor) -> dict[str, int]:
    """How many layers with weights have answered by the time that each stage has, of those with some before and behind.

    Stages that are called twice, or give no tensor, are left out.
    """
    weighted = [module for module in network.modules() if _has_weights(module)]
    layers = stages(network)
    called: list[nn.Module] = []
    depths: dict[str, list[int]] = defaultdict(list)

    def passed(name: str, output: object) -> None:
        depths[name].append(len(called) if isinstance(output, Tensor) else 0)

    with ExitStack() as hooks:
        hooks.enter_context(_hooked(weighted, lambda module, _: called.append(module)))
        for name, layer in layers.items():
            hooks.enter_context(_hooked([layer], lambda _, output, name=name: passed(name, output)))
        network(images)
    return {name: depth for name, (depth, *more) in depths.items() if not more and 0 < depth < len(called)}


def _has_weights(module: nn.Module) -> bool:
    return not list(module.children()) and any(True for _ in module.parameters())


@contextmanager
def _hooked(modules: Iterable[nn.Module], hook: Callable[..., Any]) -> Iterator[None]:
    """`hook` is called with each of the modules and what it answers, and may give another answer."""
    with ExitStack() as hooks:
        for module in modules:
            handle = module.register_forward_hook(lambda module, _inputs, output: hook(module, output))
            hooks.callback(handle.remove)
        yield
