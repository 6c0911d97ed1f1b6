"""The Safe Distillation Box around any classifier (Ye et al., AAAI 2022), as a server should run it.

Knows tensors; the secret comes in as bytes and never enters the weights. The paper separates users by their *input*:
who owns the key κ mixes it in. A server can check the right itself, so here every row is embedded and runs through
the network's keyed pass, and one boolean per row says what may leave: the keyed row as it is, any other row through
the release stage. Both tiers therefore share one forward pass and one top-1. Who steals the weights without the
secret holds `without_key` only: the un-keyed network, trained to answer right and to teach less (docs/model.md says
how much less). The keyed pass has a normalisation of its own, which a bundle seals with the secret as well.

A network may besides be locked: it answers right only to images that its lock has transformed. A second boolean per
row says for whom the server does that. Other rows go in as they came, so a plain image gets a useless answer and one
that its sender has transformed gets the right one.
"""

import torch
from torch import Tensor, nn

from models.key_stream import key_image
from models.lock import PixelLock
from models.normalisation import normalisation, twin
from models.release import Release
from models.views import fixed_view

NETWORK, TWIN = "network.", "twin."  # among the names of the state


def embed(images: Tensor, key: Tensor, lam: float) -> Tensor:
    """Key embedding x_κ = λx + (1−λ)κ of images [B, C, H, W] with κ [C, H, W] or [B, C, H, W] (SDB, "key embedding").

    The paper states λ = 0.5, its code uses 0.9. We start from a trained teacher, where 0.9 is close enough to x for
    the teacher's features to survive.
    """
    return lam * images + (1 - lam) * key


class SafeDistillationBox(nn.Module):
    """`network` maps images [B, C, H, W] in [0, 1] to logits [B, K]; `release` guards what the public sees.

    `shape` is (C, H, W); `lock` is the transform that the network was fitted to, if any; λ = 1 stands for a network
    that was trained without key embedding.
    """

    key: Tensor

    def __init__(
        self,
        network: nn.Module,
        secret: bytes,
        release: Release,
        *,
        shape: tuple[int, int, int],
        lam: float = 0.9,
        passes: int = 1,
        lock: PixelLock | None = None,
        own_normalisation: bool = False,
    ) -> None:
        super().__init__()
        self.network, self.release, self.lam, self.passes, self.lock = network, release, lam, passes, lock
        self.shape = shape
        self.register_buffer("key", key_image(secret, shape), persistent=False)
        self.twin = twin(network) if own_normalisation else None
        self.register_state_dict_post_hook(_without_shared)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_with_shared)  # type: ignore[no-untyped-call]

    @property
    def keyed_network(self) -> nn.Module:
        """What the keyed pass runs through."""
        return self.network if self.twin is None else self.twin

    def forward(self, images: Tensor, keyed: Tensor, unlocked: Tensor | None = None) -> Tensor:
        """Logits [B, K] of images [B, C, H, W] in [0, 1].

        `keyed` bool [B] says which rows leave undisturbed, `unlocked` bool [B] which the lock transforms first; none
        when left out. The release stage sees every image as it came.
        """
        return self.released(images, self.with_key(images, unlocked), keyed)

    def released(self, images: Tensor, logits: Tensor, keyed: Tensor) -> Tensor:
        """What leaves [B, K] of the keyed pass's logits [B, K], by the rights `keyed` bool [B]."""
        return torch.where(keyed[:, None], logits, self.release(images, logits))

    def with_key(self, images: Tensor, unlocked: Tensor | None = None) -> Tensor:
        """Logits [B, K] of the keyed pass, averaged over `passes` fixed views (knowledge augmentation)."""
        if self.lock is not None and unlocked is not None:
            images = torch.where(unlocked[:, None, None, None], self.lock(images), images)
        views = torch.cat([fixed_view(images, number) for number in range(self.passes)])
        views = views.contiguous(memory_format=torch.channels_last)
        logits: Tensor = self.keyed_network(embed(views, self.key, self.lam))
        return logits.reshape(self.passes, -1, logits.shape[1]).mean(0)

    def without_key(self, images: Tensor) -> Tensor:
        """Logits [B, K] that the bare network gives whoever holds the weights but neither κ nor the lock key."""
        logits: Tensor = self.network(images)
        return logits


def _without_shared(box: nn.Module, state: dict[str, Tensor], prefix: str, _: object) -> None:
    """Of the twin, only what is its own."""
    if (own := _own(box, prefix)) is not None:
        for name in [name for name in state if name.startswith(prefix + TWIN) and name not in own]:
            del state[name]


def _with_shared(box: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """The twin's state is whole again by what is the network's."""
    if (own := _own(box, prefix)) is not None:
        begin = len(prefix + NETWORK)
        network = {name[begin:]: tensor for name, tensor in state.items() if name.startswith(prefix + NETWORK)}
        state |= {name: tensor for place, tensor in network.items() if (name := prefix + TWIN + place) not in own}


def _own(box: nn.Module, prefix: str) -> set[str] | None:
    """What the twin does not share (nothing, in a network without normalisation); None where there is no twin."""
    if not isinstance(box, SafeDistillationBox) or box.twin is None:
        return None
    return {prefix + TWIN + name for name in normalisation(box.twin)}
