"""What a box is worth, in figures: its tiers as served, and its weights without the key or with a wrong one.

Knows a box and labelled images; does not know how either came about. "Un-keyed" and "keyed" are the tiers as served.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from models import losses
from models.data import LabelledImages
from models.guard import SafeDistillationBox, embed
from models.key_stream import SECRET_BYTES, key_image
from models.metrics import agreement, l1_distance, top1
from models.training.loop import predict
from models.views import fixed_view


def averaged(classifier: Callable[[Tensor], Tensor], passes: int, images: Tensor) -> Tensor:
    """Logits [B, K] of a bare classifier averaged over as many fixed views as the box averages over."""
    return losses.knowledge_augmentation(torch.stack([classifier(fixed_view(images, n)) for n in range(passes)]))


def figures(bare: Tensor, box: SafeDistillationBox, data: LabelledImages, device: torch.device) -> dict[str, float]:
    """Top-1 of the teacher and the tiers, their agreement and distances, on `data`.

    `bare` [N, K] are the teacher's logits; the tiers `unkeyed` and `keyed` are measured as served.
    `weights_without_key` and `weights_wrong_key` are what the bare network gives a thief of the weights.
    """
    box.eval()

    def tier(images: Tensor, keyed: bool) -> Tensor:
        logits: Tensor = box(images, torch.full((len(images),), keyed, device=images.device))
        return logits

    channels, height, width = box.key.shape

    def wrong_key(images: Tensor) -> Tensor:
        other = key_image(bytes(SECRET_BYTES), (channels, height, width)).to(images.device)
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
