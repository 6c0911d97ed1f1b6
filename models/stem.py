"""A block-aligned stem before a network: one linear map for all blocks of an image, which can undo a lock's key.

Knows pixels, blocks and keys that are linear maps; does not know what network stands behind it. A convolution that
slides by one pixel has to learn a scrambled grid anew, one whose stride is the block takes any key of `shf` and `np`
for the price of one matrix. Who has the weights has the matrix: it is a lock only as far as the network behind it
refuses plain images (models/training/removal.py).
"""

from collections.abc import Sequence

import torch
from sdb_client.transforms import Transform
from torch import Tensor, nn

CHANNELS = 3
STEPS = ("shf", "np")


class StemError(ValueError):
    """The key is not one that a linear map of a block can undo."""


class BlockStem(nn.Sequential):
    """Images [B, 3, H, W] → the same shape, through one matrix [n, n] and one vector [n] for all blocks, n = 3·M².

    Begins as the identity. A value of a block comes out at the place c·M² + row·M + column.
    """

    def __init__(self, block: int) -> None:
        values = CHANNELS * block * block
        super().__init__(nn.Conv2d(CHANNELS, values, block, block), nn.PixelShuffle(block))
        self.block, self.values = block, values
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Be the identity again."""
        self.weight.copy_(torch.eye(self.values).view_as(self.weight))
        self.bias.zero_()

    @property
    def weight(self) -> Tensor:
        """The matrix, [n, 3, M, M]."""
        return self.get_parameter("0.weight")

    @property
    def bias(self) -> Tensor:
        """The vector, [n]."""
        return self.get_parameter("0.bias")


def with_stem(network: nn.Module, block: int) -> nn.Module:
    """`network` with a stem before it that is the identity, as its submodule `stem`; other tensors keep their names.

    Weights of the same network without a stem load, and leave the stem as it is.

    Raises:
        StemError: a bare chain of layers, which would take the stem for one of its own, or one with a `stem` already.
    """
    if isinstance(network, nn.Sequential) or hasattr(network, "stem"):
        raise StemError(f"{type(network).__name__} takes no stem")
    network.add_module("stem", BlockStem(block))
    network.register_forward_pre_hook(_through)
    network.register_load_state_dict_pre_hook(_keep_stem)  # type: ignore[no-untyped-call]
    return network


def stem_of(network: nn.Module) -> BlockStem:
    """The stem that `with_stem` gave a network.

    Raises:
        StemError: it has none.
    """
    stem = getattr(network, "stem", None)
    if not isinstance(stem, BlockStem):
        raise StemError(f"{type(network).__name__} has no stem")
    return stem


def _through(network: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
    return (stem_of(network)(inputs[0]),)


def _keep_stem(network: nn.Module, tensors: dict[str, Tensor], prefix: str, *_: object) -> None:
    for name, tensor in stem_of(network).state_dict(prefix=f"{prefix}stem.").items():
        tensors.setdefault(name, tensor)


@torch.no_grad()
def undo(stem: BlockStem, transform: Transform, mean: Sequence[float], std: Sequence[float]) -> None:
    """Set the stem to the map of transformed images, pixels in [−1, 1], to plain ones, (x − mean)/std of each channel.

    In [−1, 1] a negated value is −x, so that the inverse of shuffle and mask is a signed permutation; the plain
    network's own normalisation is folded in: (x + 1)/2 → ((x + 1)/2 − μ)/σ = x/2σ + (1/2 − μ)/σ.

    Raises:
        StemError: a stem cannot undo the transform.
    """
    if not {step.name for step in transform.steps} <= set(STEPS):
        raise StemError(f"a stem can undo the steps {', '.join(STEPS)} only")
    gather, xor = transform.fused(stem.block, stem.block)
    here, there = _places(torch.arange(stem.values), stem.block), _places(torch.from_numpy(gather), stem.block)
    shift, scale = (torch.tensor(numbers).repeat_interleave(stem.block**2) for numbers in (mean, std))
    signs = torch.where(torch.from_numpy(xor) != 0, -1.0, 1.0)
    matrix = torch.zeros(stem.values, stem.values)
    matrix[there, here] = signs / (2 * scale[there])
    stem.weight.copy_(matrix.view_as(stem.weight))
    stem.bias.copy_((0.5 - shift) / scale)


def _places(numbers: Tensor, block: int) -> Tensor:
    """Values of a block counted in the order H, W, C, as keys count them → in the order C, H, W, as a stem does."""
    return numbers % CHANNELS * block**2 + numbers // CHANNELS
