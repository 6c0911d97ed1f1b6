"""A locked network whose first layers are taken out, and a public one's put in their place.

That is what a thief of a network that was locked from public weights does first: no key is needed. So some rows of
every batch change over from the public network to the locked one, behind each of its layers, and are to say nothing of
the class. Knows networks that are chains of layers behind a stem; knows no key.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial

import torch
from torch import Tensor, nn
from torchvision.models.vision_transformer import Encoder

from models.data import LabelledImages
from models.metrics import top1
from models.stem import BlockStem
from models.training.loop import predict

AFTER_MAPS = nn.Linear | nn.Flatten | nn.Dropout | nn.AdaptiveAvgPool2d  # no features to change over behind these
IMAGES = 1000  # from all over the test set, that figures are read on: there are as many readings as layers
WITHOUT_STEM = 0.5  # of the rows that go around layers: the simplest theft

Answering = Callable[[Tensor], Tensor]  # images [B, C, H, W] → logits [B, K]


class Removal:
    """A locked classifier and a public one of the same architecture, whose stem is the identity.

    Both map images [B, 3, H, W] in [0, 1] to logits [B, K]. The public one maps plain images, is frozen and in
    evaluation mode.
    """

    def __init__(self, locked: nn.Module, public: nn.Module) -> None:
        self._public = public
        self._locked_layers, self._layers = (list(stages(one).values()) for one in (locked, public))

    def answers(self, network: Answering, images: Tensor, plain: Tensor, generator: torch.Generator) -> Tensor:
        """Logits [B + P, K] of `images` [B, ...], and of `plain` [P, ...] that go around the first layers.

        `network` runs the locked one, as its training wraps it. About as many rows go around the same layers each time:
        batch normalisation sees every kind of theft in every batch. Which layers get one row more is drawn, and where
        rows are fewer than layers no layer is always left out.
        """
        stem = round(WITHOUT_STEM * len(plain))
        layers = len(self._layers) - 1
        each, left = divmod(len(plain) - stem, layers)
        later = torch.full((layers,), each)
        later[torch.randperm(layers, generator=generator)[:left]] += 1
        return self._changed_over(network, images, plain, [stem, *later.tolist()])

    def figures(self, network: Answering, data: LabelledImages, device: torch.device) -> dict[str, float]:
        """Top-1 of plain images on `data` without the stem, and the highest with public layers up to any later one."""
        part = data.subset(torch.linspace(0, len(data) - 1, min(IMAGES, len(data))).round().long())
        read = [top1(predict(opened, part.images, device), part.labels) for opened in self.opened(network)]
        return {"top1_without_stem": read[0], "top1_public_layers_worst": max(read[1:])}

    def opened(self, network: Answering) -> list[Answering]:
        """Plain images → logits, without the stem and with public layers up to each later one, in order."""
        return [partial(self._alone, number, network) for number in range(len(self._layers))]

    def _alone(self, number: int, network: Answering, plain: Tensor) -> Tensor:
        return self._changed_over(network, plain[:0], plain, [*[0] * number, len(plain)])

    def _changed_over(self, network: Answering, images: Tensor, plain: Tensor, counts: Sequence[int]) -> Tensor:
        """So many of the `plain` rows change over behind each layer, in order."""
        shown, first = _outputs(self._layers, self._public, plain), 0
        with ExitStack() as hooks:
            for layer, output, count in zip(self._locked_layers, shown, counts, strict=False):
                theirs = output[first : first + count]
                hook = partial(_put, theirs, len(images) + first)
                hooks.callback(layer.register_forward_hook(hook).remove)
                first += count
            return network(torch.cat([images, plain]))


def stages(network: nn.Module) -> dict[str, nn.Module]:
    """The layers, by name and a stem first, behind which one classifier's features can be another's.

    They are those of a chain [B, C, H, W] → [B, C, H, W]: the children of a backbone and of the chains among them, so
    that a residual block is one layer; of a vision transformer's encoder, its blocks.
    """
    children = dict(network.get_submodule("backbone").named_children())
    stem = {name: child for name, child in children.items() if isinstance(child, BlockStem)}
    layers = {name: layer for child in {**stem, **children}.items() for name, layer in _chain(*child)}
    return {name: layer for name, layer in layers.items() if not isinstance(layer, AFTER_MAPS)}


def _chain(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    if isinstance(module, Encoder):
        for own, child in module.named_children():
            yield from _chain(f"{name}.{own}", child)
    elif isinstance(module, nn.Sequential | nn.ModuleList) and not isinstance(module, BlockStem):
        yield from ((f"{name}.{own}", child) for own, child in module.named_children())
    else:
        yield name, module


def _outputs(layers: Sequence[nn.Module], network: nn.Module, images: Tensor) -> list[Tensor]:
    """What each layer of `network` makes of images, in order."""
    kept: list[Tensor] = []
    with ExitStack() as hooks, torch.no_grad():
        for layer in layers:
            # Cloned, because an activation may work in place.
            hook = layer.register_forward_hook(lambda _module, _inputs, output: kept.append(output.clone()))
            hooks.callback(hook.remove)
        network(images)
    return kept


def _put(rows: Tensor, start: int, _module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
    """The output of a layer, with other rows from `start` on."""
    return torch.cat([output[:start], rows.to(output.dtype), output[start + len(rows) :]])
