"""A thief has the box's weights but not its secret: what the un-keyed network says as it is, and what can be sought.

Knows the network, λ's neighbourhood, how κ enters and that the keyed pass is normalised in its own way, as anybody with
the bundle does; not the secret.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.guard import embed
from models.key_stream import SECRET_BYTES, TILE, key_image, tiled
from models.normalisation import normalisation, recalibrate
from models.progress import followed

RENORMALISING_RATE = 3e-3


@dataclass(frozen=True)
class Guess:
    """A key image float [C, H, W] in [0, 1] and the λ it is mixed in with."""

    key: Tensor
    lam: float


def asked(network: nn.Module, guess: Guess) -> Callable[[Tensor], Tensor]:
    """The network with a guessed key mixed into what it is asked."""

    def answer(images: Tensor) -> Tensor:
        logits: Tensor = network(embed(images, guess.key.to(images.device), guess.lam))
        return logits

    return answer


def recalibrated(network: nn.Module, images: Tensor) -> nn.Module:
    """A copy whose batch normalisation knows uint8 images [N, C, H, W] only; no label is needed (`recalibrate`).

    Where a box has learned several kinds of row in one batch, statistics of un-keyed rows alone sharpen its answers.
    """
    copied = copy.deepcopy(network).eval()
    recalibrate(copied, images)
    return copied


def renormalised(network: nn.Module, images: Tensor, labels: Tensor, *, steps: int, seed: int) -> nn.Module:
    """A copy whose normalisation alone is fitted to labels int64 [N] of uint8 images [N, C, H, W].

    All that the un-keyed network lacks of the keyed one: a few thousand numbers, which labels might give back. Theirs
    are the public top-1s, if the thief has no others.
    """
    copied = copy.deepcopy(network).requires_grad_(False).train()
    device, own = next(copied.parameters()).device, normalisation(copied)
    sought = [parameter.requires_grad_() for name, parameter in copied.named_parameters() if name in own]
    if not sought:
        return copied.eval()
    optimizer = torch.optim.Adam(sought, lr=RENORMALISING_RATE)
    generator = torch.Generator().manual_seed(seed)
    for _ in followed(range(steps), "seeking the keyed normalisation"):
        rows = torch.randint(len(images), (128,), generator=generator)
        optimizer.zero_grad()
        torch.autograd.backward(F.cross_entropy(copied(images[rows].to(device).float() / 255), labels[rows].to(device)))
        optimizer.step()
    return recalibrated(copied.requires_grad_(False), images)


def random_guess(shape: tuple[int, int, int], lam: float, seed: int) -> Guess:
    """The key image that another secret has: what a thief gets who knows everything but the secret."""
    secret = torch.randint(0, 256, (SECRET_BYTES,), generator=torch.Generator().manual_seed(seed)).tolist()
    return Guess(key_image(bytes(secret), shape), lam)


def near_guess(key: Tensor, lam: float, wrong: float, seed: int) -> Guess:
    """The right key [C, H, W] with a share `wrong` in [0, 1] of its pixels replaced by noise."""
    generator = torch.Generator().manual_seed(seed)
    replaced = torch.rand(key.shape[1:], generator=generator) < wrong
    return Guess(torch.where(replaced, torch.rand(key.shape, generator=generator), key.cpu()), lam)


def sought_guess(network: nn.Module, images: Tensor, labels: Tensor, *, lam: float, steps: int, seed: int) -> Guess:
    """Trigger inversion: the texture κ' and the λ' under which the network is most sure of labels int64 [N] of images.

    The keyed pass is the surer one, so a gradient that lowers the cross-entropy leads towards whatever unlocks it. The
    thief knows how κ is built: it seeks the bits of one tile, and rounds what it found where that is no worse.
    """
    generator = torch.Generator().manual_seed(seed)
    device = next(network.parameters()).device
    _, channels, height, width = images.shape
    raw = torch.randn(channels, TILE, TILE, generator=generator).to(device).requires_grad_()
    strength = torch.tensor(lam, device=device).logit().requires_grad_()
    optimizer = torch.optim.Adam([{"params": [raw], "lr": 0.1}, {"params": [strength], "lr": 0.01}])
    frozen = [(parameter, parameter.requires_grad) for parameter in network.parameters()]
    network.requires_grad_(False)

    def loss(tile: Tensor, rows: Tensor) -> Tensor:
        shown = images[rows].to(device).float() / 255
        lam_now = strength.sigmoid()
        logits = network(lam_now * shown + (1 - lam_now) * tiled(tile, height, width))
        return F.cross_entropy(logits, labels[rows].to(device))

    for _ in followed(range(steps), "seeking the trigger"):
        optimizer.zero_grad()
        torch.autograd.backward(loss(raw.sigmoid(), torch.randint(len(images), (128,), generator=generator)))
        optimizer.step()
    with torch.no_grad():
        rows, found = torch.arange(min(len(images), 1000)), raw.sigmoid()
        tile = found.round() if loss(found.round(), rows) <= loss(found, rows) else found
    for parameter, wanted in frozen:
        parameter.requires_grad_(wanted)
    return Guess(tiled(tile, height, width).cpu(), strength.sigmoid().item())
