"""A linear layer before the stolen network, learned by gradient descent: the same n × n matrix for every block.

Shuffled and negated blocks are such a map of the plain ones, so it can become what the key does; where a scheme treats
every block in its own way it has a matrix for each. Knows nothing of permutations: `sinkhorn` does.
"""

import torch
from torch import Tensor, nn

from models.attacks.locks.blocks import to_blocks, to_images
from models.attacks.locks.descent import descend
from models.attacks.locks.keys import Scheme
from models.attacks.locks.thief import Opened, Thief

EACH = {"shf-each", "np-each"}
LEARNING_RATE = 0.002


class BlockLinear(nn.Module):
    """b' = W b + c for every block b [n], and b'' = Σ_q V[p, q] b'_q over blocks if the scheme scrambles them.

    It begins as the identity.
    """

    def __init__(self, scheme: Scheme) -> None:
        super().__init__()
        self._scheme = scheme
        kinds = scheme.blocks if EACH & set(scheme.steps) else 1
        self.weight = nn.Parameter(torch.eye(scheme.size).repeat(kinds, 1, 1))
        self.bias = nn.Parameter(torch.zeros(kinds, 1, scheme.size))
        self.moved = nn.Parameter(torch.eye(scheme.blocks)) if "scramble" in scheme.steps else None

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, C, H, W] → what the network is to see of them."""
        blocks = to_blocks(images, self._scheme.block).transpose(0, 1)
        blocks = (blocks @ self.weight.mT + self.bias).transpose(0, 1)
        if self.moved is not None:
            blocks = self.moved @ blocks
        return to_images(blocks, self._scheme.block, self._scheme.shape)


def steal(thief: Thief, *, images: int) -> Opened:
    """The layer learned from `images` labelled images; there is no key in it."""
    front = BlockLinear(thief.scheme).to(thief.device)

    def answers(shown: Tensor, _: float) -> Tensor:
        logits: Tensor = thief.network(front(shown))
        return logits

    descend(thief, front, answers, images, learning_rate=LEARNING_RATE, title=f"linear layer, {images} images")
    return Opened(front)
