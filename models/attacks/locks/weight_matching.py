"""A matched vision transformer gives its key away to who has the plain one that it was made from.

The lock permutes columns of the patch embedding (and negates them), and rows of the position embedding. Laid beside
those of a public base of the same architecture, even fine-tuned since, each finds its own again by a linear assignment.
Knows torchvision's vision transformer and the steps that can be matched; asks the network nothing.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]
from sdb_client.transforms import Negative, Scramble, Shuffle, Step, fixed
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import VisionTransformer

from models.attacks.locks.thief import Opened, Thief

MATCHED = {"shf", "np", "scramble"}


def obstacle(thief: Thief) -> str | None:
    """Why the attack cannot be tried, if so."""
    if thief.base is None:
        return "no --backbone"
    stolen = _transformer(thief.network)
    if stolen is None or stolen.patch_size != thief.scheme.block or not set(thief.scheme.steps) <= MATCHED:
        return "not a vision transformer whose patches are the lock's blocks"
    return None


def steal(thief: Thief) -> Opened:
    """The key under which the public weights are most like the stolen ones.

    Raises:
        ValueError: one of the networks is no vision transformer.
    """
    stolen, base = _transformer(thief.network), thief.base and _transformer(thief.base)
    if stolen is None or base is None:
        raise ValueError("weights are matched between two vision transformers")
    steps = thief.scheme.steps
    likeness = _likeness(_columns(stolen), _columns(base))
    order = _assigned(np.abs(likeness) if "np" in steps else likeness) if "shf" in steps else np.arange(len(likeness))
    negative = likeness[np.arange(len(order)), order] < 0
    if {"shf", "np"} <= set(steps) and steps.index("np") < steps.index("shf"):
        negative = negative[np.argsort(order)]  # they were negated where they came from
    found: dict[str, Step] = {"shf": Shuffle(order), "np": Negative(negative)}
    if "scramble" in steps:
        found["scramble"] = Scramble(fixed(_assigned(_likeness(_positions(stolen), _positions(base)))))
    key = thief.scheme.key([found[name] for name in steps])
    return Opened(thief.front(key), key)


def _transformer(network: nn.Module) -> VisionTransformer | None:
    return next((module for module in network.modules() if isinstance(module, VisionTransformer)), None)


def _columns(transformer: VisionTransformer) -> Tensor:
    """The patch embedding [n, d]: a row for each value of a patch, in the order H, W, C."""
    weight: Tensor = transformer.conv_proj.weight.detach()
    return weight.permute(2, 3, 1, 0).flatten(0, 2)


def _positions(transformer: VisionTransformer) -> Tensor:
    """The position embeddings [N, d] of the patches, without what all of them share."""
    found: Tensor = transformer.encoder.pos_embedding.detach()[0, 1:]
    return found - found.mean(0)


def _likeness(first: Tensor, second: Tensor) -> NDArray[np.float32]:
    """Cosines [L, L] of all pairs of rows: what a normalisation folded into the weights leaves alone."""
    cosines: NDArray[np.float32] = (F.normalize(first, dim=1) @ F.normalize(second, dim=1).T).cpu().numpy()
    return cosines


def _assigned(likeness: NDArray[np.float32]) -> NDArray[np.intp]:
    order: NDArray[np.intp] = linear_sum_assignment(likeness, maximize=True)[1]
    return order
