"""Public first layers and an adapter, learned by gradient descent, between them and the rest of the stolen network.

A lock that refuses public features as they are has to refuse what a linear map of a neighbourhood makes of them too.
Knows feature maps and tokens; what a cut is, `grafts` knows.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from models.attacks.locks.descent import descend
from models.attacks.locks.grafts import Graft, grafts
from models.attacks.locks.thief import Opened, Thief, as_it_is

FEW = 4  # cuts; behind the last of all is only the head, and what is learned there needs nothing stolen
FASTEST = 0.003
OF_ALL = 0.048  # Adam moves all weights alike, so the more channels there are, the further it moves their sum


def steal(thief: Thief, *, images: int) -> Iterator[Opened]:
    """The networks with an adapter learned from `images` labelled images, at a few cuts from the first on."""
    found = grafts(thief)
    places = torch.linspace(0, max(len(found) - 2, 0), FEW).round().int().tolist()
    for graft in dict.fromkeys(found[place] for place in places):
        yield Opened(as_it_is, network=_learned(thief, graft, images), cut=graft.cut)


def _learned(thief: Thief, graft: Graft, images: int) -> Graft:
    adapter = identity(graft.features(thief.held(1)[0]).shape).to(thief.device)
    adapted = replace(graft, adapter=adapter)

    def answers(shown: Tensor, _: float) -> Tensor:
        return adapted(shown)

    rate = min(FASTEST, OF_ALL / len(adapter.weight))
    descend(thief, adapter, answers, images, learning_rate=rate, title=f"adapter behind {graft.cut}")
    return adapted


def identity(shape: torch.Size) -> nn.Conv2d | nn.Linear:
    """What can be learned about features of a shape [B, ...], and begins by changing nothing.

    A convolution of 3 × 3 for maps [B, C, H, W]; a linear layer for vectors [B, C], tokens [B, N, C] and [B, H, W, C].
    """
    layer: nn.Conv2d | nn.Linear
    if len(shape) < 4 or shape[1] == shape[2] != shape[3]:
        layer = nn.Linear(shape[-1], shape[-1])
        nn.init.eye_(layer.weight)
    else:
        layer = nn.Conv2d(shape[1], shape[1], 3, padding=1)
        nn.init.dirac_(layer.weight)
    nn.init.zeros_(layer.get_parameter("bias"))
    return layer
