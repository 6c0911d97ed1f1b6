"""A soft key before the stolen network, learned by gradient descent and hardened into a key of the scheme.

A permutation is relaxed to a doubly stochastic matrix by Sinkhorn's normalisation (Mena et al., ICLR 2018, §2), a mask
to signs by tanh; both are cooled until they are nearly 0 and 1. Knows every step but ffx, whose table no gradient leads
to.
"""

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]
from sdb_client.transforms import Negative, NegativeEach, Scramble, Shuffle, ShuffleEach, Step, Transform, fixed
from torch import Tensor, nn

from models.attacks.locks.blocks import to_blocks, to_images
from models.attacks.locks.descent import descend
from models.attacks.locks.keys import Entries, Scheme
from models.attacks.locks.thief import Opened, Thief, accuracy

WARM, COLD = 1.0, 0.05  # temperatures at the begin and at the end
ROUNDS = 20  # of Sinkhorn's normalisation
LEARNING_RATE = 0.1
SPREAD = 0.1  # standard deviation of what everything begins as


class SoftOrder(nn.Module):
    """Permutations [R, L] relaxed to doubly stochastic matrices [R, L, L]."""

    def __init__(self, rows: int, length: int, generator: torch.Generator) -> None:
        super().__init__()
        self.scores = nn.Parameter(SPREAD * torch.randn(rows, length, length, generator=generator))

    def forward(self, temperature: float) -> Tensor:
        """Row i of a matrix says which entry comes to place i."""
        powers = self.scores / temperature
        for _ in range(ROUNDS):
            powers = powers - powers.logsumexp(-1, keepdim=True)
            powers = powers - powers.logsumexp(-2, keepdim=True)
        return powers.exp()

    def hardened(self) -> Entries:
        """The nearest permutations [R, L]."""
        return np.stack([linear_sum_assignment(one, maximize=True)[1] for one in self(COLD).detach().cpu().numpy()])


class SoftMask(nn.Module):
    """Masks [R, L] relaxed to signs in (−1, 1): −1 negates."""

    def __init__(self, rows: int, length: int, generator: torch.Generator) -> None:
        super().__init__()
        self.scores = nn.Parameter(SPREAD * torch.randn(rows, length, generator=generator))

    def forward(self, temperature: float) -> Tensor:
        """The signs [R, L]."""
        return torch.tanh(self.scores / temperature)

    def hardened(self) -> Entries:
        """The masks bool [R, L]."""
        return (self.scores < 0).detach().cpu().numpy()


class SoftKey(nn.Module):
    """Every step of a scheme, relaxed, in order."""

    def __init__(self, scheme: Scheme, seed: int) -> None:
        super().__init__()
        self._scheme = scheme
        generator = torch.Generator().manual_seed(seed)
        sizes = {"scramble": (1, scheme.blocks)}
        self._soft = nn.ModuleList(
            (SoftMask if name.startswith("np") else SoftOrder)(
                *sizes.get(name, (scheme.blocks if name.endswith("each") else 1, scheme.size)), generator
            )
            for name in scheme.steps
        )

    def forward(self, images: Tensor, progress: float = 1.0) -> Tensor:
        """Images [B, C, H, W] → what the network is to see of them; the key cools down with `progress`."""
        temperature = WARM * (COLD / WARM) ** progress
        blocks = to_blocks(images, self._scheme.block)
        for name, soft in zip(self._scheme.steps, self._soft, strict=True):
            found = soft(temperature)
            if name == "scramble":
                blocks = found @ blocks
            elif name.startswith("shf"):
                blocks = (blocks.transpose(0, 1) @ found.mT).transpose(0, 1)
            else:
                blocks = 0.5 + found * (blocks - 0.5)
        return to_images(blocks, self._scheme.block, self._scheme.shape)

    def hardened(self) -> Transform:
        """The nearest key."""
        pairs = zip(self._scheme.steps, self._soft, strict=True)
        return self._scheme.key([_step(name, soft.hardened()) for name, soft in pairs])  # type: ignore[operator]


def _step(name: str, found: Entries) -> Step:
    match name:
        case "shf":
            return Shuffle(found[0])
        case "np":
            return Negative(found[0])
        case "scramble":
            return Scramble(fixed(found[0]))
        case "shf-each":
            return ShuffleEach(fixed(found))
        case "np-each":
            return NegativeEach(fixed(found))
    raise ValueError(f"{name} cannot be relaxed")


def obstacle(thief: Thief) -> str | None:
    """Why the attack does not suit a scheme."""
    return "no gradient leads to the table of an ffx step" if "ffx" in thief.scheme.steps else None


def steal(thief: Thief, *, images: int) -> Opened:
    """The key learned from `images` labelled images, soft or hard: whichever answers more of them right."""
    soft = SoftKey(thief.scheme, thief.seed).to(thief.device)

    def answers(shown: Tensor, progress: float) -> Tensor:
        logits: Tensor = thief.network(soft(shown, progress))
        return logits

    descend(thief, soft, answers, images, learning_rate=LEARNING_RATE, title=f"soft key, {images} images")
    key = soft.hardened()
    shown, labels = thief.held(images)
    with torch.inference_mode():
        gentle, hard = (accuracy(thief.network(front(shown)), labels) for front in (soft, thief.front(key)))
    return Opened(soft if gentle > hard else thief.front(key), key)
