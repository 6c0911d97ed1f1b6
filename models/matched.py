"""The exact lock of a vision transformer: its weights are matched to a key, and nothing is trained.

Knows torchvision's `VisionTransformer` and a `Transform` whose block is its patch. A key that moves the values of
every patch alike is undone by moving the columns of the patch embedding, one that negates them by their signs, and
one that moves whole patches by moving the position embeddings: the blocks of a transformer treat all tokens alike
(Qi et al., arXiv 2207.05366; Kiya et al., arXiv 2308.07612). Logits stay what they were, up to rounding.

The key then lies in the weights: whoever has the plain model too finds it by comparing the two (docs/encryption.md).
"""

import copy
from collections.abc import Sequence

import torch
from sdb_client.transforms import Negative, Scramble, Shuffle, Transform
from torch import Tensor, nn

STEPS = ("shf", "np", "scramble")


class MatchError(ValueError):
    """The network or the transform is not of a kind that can be matched; the message says which."""


@torch.no_grad()
def matched(backbone: nn.Module, transform: Transform, mean: Sequence[float], std: Sequence[float]) -> nn.Module:
    """A copy of a plain vision transformer that answers transformed images in [0, 1] as it does normalised plain ones.

    `mean` and `std` of the plain model's normalisation go into the patch embedding, because a transform mixes the
    channels they belong to; the copy takes pixels as they are.

    Raises:
        MatchError: no torchvision `VisionTransformer`, a block that is not its patch, or a step not in `STEPS`.
    """
    _check(backbone, transform)
    locked = copy.deepcopy(backbone)
    tensors = locked.state_dict()  # which share their memory with the network
    weight, bias, positions = (
        tensors[name] for name in ("conv_proj.weight", "conv_proj.bias", "encoder.pos_embedding")
    )
    columns, shift = _normalised(weight.double(), bias.double(), mean, std)
    for step in transform.steps:
        if isinstance(step, Shuffle):
            columns = columns[:, torch.from_numpy(step.permutation.copy())]
        elif isinstance(step, Negative):
            mask = torch.from_numpy(step.mask.copy())
            shift = shift + columns[:, mask].sum(1)  # W·x = W − W·(1 − x), summed over the negated
            columns = torch.where(mask, -columns, columns)
        elif isinstance(step, Scramble):
            order = torch.from_numpy(step.key_for(positions.shape[1] - 1).copy())
            positions[:, 1:] = positions[:, 1:][:, order]
    patch, channels = transform.block, transform.channels
    weight.copy_(columns.view(-1, patch, patch, channels).permute(0, 3, 1, 2))
    bias.copy_(shift)
    return locked


def _check(backbone: nn.Module, transform: Transform) -> None:
    from torchvision.models import VisionTransformer  # noqa: PLC0415 - slow; who catches a MatchError need not wait

    if not isinstance(backbone, VisionTransformer):
        raise MatchError("only a vision transformer of torchvision can be matched to a key; train the lock instead")
    if backbone.patch_size != transform.block:
        raise MatchError(f"the block is the patch, {backbone.patch_size}, not {transform.block}")
    if not {step.name for step in transform.steps} <= set(STEPS):
        raise MatchError(f"a network can be matched to the steps {', '.join(STEPS)} only")


def _normalised(weight: Tensor, bias: Tensor, mean: Sequence[float], std: Sequence[float]) -> tuple[Tensor, Tensor]:
    """(columns [D, n], bias [D]) of the embedding that takes values in [0, 1]; a patch is flattened as H, W, C.

    W·(x − μ)/σ + b = (W/σ)·x + (b − (W/σ)·μ)
    """
    columns = weight.permute(0, 2, 3, 1) / torch.tensor(std, dtype=weight.dtype)
    shift = bias - (columns * torch.tensor(mean, dtype=weight.dtype)).sum((1, 2, 3))
    return columns.flatten(1), shift
