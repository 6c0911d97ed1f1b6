"""Networks that share every weight but those of their normalisation (AdvProp, Xie et al., CVPR 2020, arXiv 1911.09665).

Knows layers; knows no key. One network learns two ways to answer, each normalised by statistics and weights of its own:
with a common normalisation the two fight, and a thief who takes statistics anew has most of the other one.
"""

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

NORMALISING = (_BatchNorm, nn.LayerNorm, nn.GroupNorm)
RECALIBRATION_BATCH = 200


def normalisation(network: nn.Module) -> dict[str, Tensor]:
    """The tensors of a network's normalising layers, by their names in its state."""
    return {
        f"{place}.{name}" if place else name: tensor
        for place, layer in network.named_modules()
        if isinstance(layer, NORMALISING)
        for name, tensor in layer.state_dict().items()
    }


def twin(network: nn.Module) -> nn.Module:
    """A copy with a normalisation of its own; every other parameter and buffer is the network's, and stays so.

    Training either moves both, and so does loading the state of either.
    """
    shared: dict[int, object] = {}
    for layer in network.modules():
        if not isinstance(layer, NORMALISING):
            own = (*layer.parameters(recurse=False), *layer.buffers(recurse=False))
            shared |= {id(tensor): tensor for tensor in own}
    return copy.deepcopy(network, shared)


def recalibrate(network: nn.Module, images: Tensor) -> None:
    """Take the statistics of a network's batch normalisation anew, from uint8 images [N, C, H, W] and nothing else.

    Li et al., "Revisiting Batch Normalization for Practical Domain Adaptation" (2016). Weights stay as they are.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, _BatchNorm) and layer.track_running_stats]
    before = [(layer, layer.momentum, layer.training) for layer in layers]
    device = next(network.parameters()).device
    for layer in layers:
        layer.train()
        layer.reset_running_stats()
        layer.momentum = None  # the mean over all batches
    batches = torch.tensor_split(images, math.ceil(len(images) / RECALIBRATION_BATCH))  # alike: each counts as much
    try:
        with torch.no_grad():
            for rows in batches:
                network(rows.to(device).float() / 255)
    finally:
        for layer, momentum, training in before:
            layer.momentum = momentum
            layer.train(training)


class Pair(nn.Module):
    """A network and its twin, to be trained together."""

    def __init__(self, network: nn.Module, twin: nn.Module) -> None:
        super().__init__()
        self.network, self.twin = network, twin

    def forward(self, images: Tensor, twins: Tensor) -> tuple[Tensor, Tensor]:
        """What the network says of `images` and the twin of `twins`, both [B, C, H, W]: logits [B, K]."""
        return self.network(images), self.twin(twins)
