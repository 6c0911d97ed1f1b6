"""What a box or a lock is worth, in figures: the tiers as served, and the weights without the key or with a wrong one.

Knows a box and labelled images; does not know how either came about. "Un-keyed" and "keyed" are the tiers as served.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from models import losses
from models.data import LabelledImages
from models.guard import SafeDistillationBox, embed
from models.key_stream import SECRET_BYTES, key_image
from models.lock import PixelLock
from models.metrics import agreement, l1_distance, top1
from models.training.loop import predict
from models.training.negatives import fresh_key
from models.views import fixed_view


def averaged(classifier: Callable[[Tensor], Tensor], passes: int, images: Tensor) -> Tensor:
    """Logits [B, K] of a bare classifier averaged over as many fixed views as the box averages over."""
    return losses.knowledge_augmentation(torch.stack([classifier(fixed_view(images, n)) for n in range(passes)]))


def served(box: SafeDistillationBox, images: Tensor) -> Tensor:
    """Logits [B, K] of images [B, C, H, W] in [0, 1] for a caller with every right."""
    return box.with_key(images, torch.ones(len(images), dtype=torch.bool, device=images.device))


def figures(bare: Tensor, box: SafeDistillationBox, data: LabelledImages, device: torch.device) -> dict[str, float]:
    """Top-1 of the teacher and the tiers, their agreement and distances, on `data`.

    `bare` [N, K] are the teacher's logits; the tiers `unkeyed` and `keyed` are measured as served.
    `weights_without_key` and `weights_wrong_key` are what the bare network gives a thief of the weights. The tiers of
    a locked box are those of callers who may unlock it.
    """
    box.eval()

    def tier(images: Tensor, keyed: bool) -> Tensor:
        rows = torch.full((len(images),), keyed, device=images.device)
        logits: Tensor = box(images, rows, torch.ones_like(rows))
        return logits

    def wrong_key(images: Tensor) -> Tensor:
        other = key_image(bytes(SECRET_BYTES), box.shape).to(images.device)
        return box.without_key(embed(images, other, box.lam))

    public = predict(lambda images: tier(images, keyed=False), data.images, device)
    keyed = predict(lambda images: tier(images, keyed=True), data.images, device)
    thieves = {
        "weights_without_key": predict(box.without_key, data.images, device),
        "weights_wrong_key": predict(wrong_key, data.images, device),
    }
    return {
        "top1_teacher": top1(bare, data.labels),
        "top1_unkeyed": top1(public, data.labels),
        "top1_keyed": top1(keyed, data.labels),
        "agreement_unkeyed_keyed": agreement(public, keyed),
        "agreement_keyed_teacher": agreement(keyed, bare),
        "l1_unkeyed_teacher": l1_distance(public, bare),
        "l1_keyed_teacher": l1_distance(keyed, bare),
        **{f"top1_{name}": top1(logits, data.labels) for name, logits in thieves.items()},
        **{f"l1_{name}_teacher": l1_distance(logits, bare) for name, logits in thieves.items()},
    }


def plain_figures(network: Callable[[Tensor], Tensor], data: LabelledImages, device: torch.device) -> dict[str, float]:
    """Top-1 on `data` of a network without box or lock."""
    return {"top1": top1(predict(network, data.images, device), data.labels)}


def random_locks(right: PixelLock, count: int) -> list[PixelLock]:
    """`count` locks with wrong keys, the first ones always the same, on the device of the right one."""
    draw = np.random.default_rng(0)
    guesses = [fresh_key(right.transform, right.blocks, draw) for _ in range(count)]
    return [PixelLock(guess, right.shape).to(right.gather.device) for guess in guesses]


def lock_figures(
    answer: Callable[[Tensor], Tensor],
    right: PixelLock,
    wrong: Sequence[PixelLock],
    data: LabelledImages,
    device: torch.device,
) -> dict[str, float]:
    """Top-1 on `data` of a locked network with the right key, without one, and with wrong ones: mean and worst.

    `answer` maps images [B, C, H, W] in [0, 1], as they reach the network, to logits [B, K].
    """

    def read(key: Callable[[Tensor], Tensor]) -> float:
        return top1(predict(lambda images: answer(key(images)), data.images, device), data.labels)

    others = [read(key) for key in wrong]
    return {
        "top1_right_key": read(right),
        "top1_no_key": read(lambda images: images),
        "top1_wrong_keys_mean": sum(others) / len(others),
        "top1_wrong_keys_worst": max(others),
    }
