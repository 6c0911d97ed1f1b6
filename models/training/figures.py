"""What a box is worth, in figures: its tiers as served, and its weights without the key or with a wrong one.

Knows a box and labelled images; does not know how either came about. "Un-keyed" and "keyed" are the tiers as served.
"""

import torch
from torch import Tensor, nn

from models import losses
from models.data import LabelledImages
from models.guard import SafeDistillationBox, embed
from models.metrics import agreement, l1_distance, top1
from models.training.loop import predict
from models.views import fixed_view


def averaged(classifier: nn.Module, views: int, images: Tensor) -> Tensor:
    """Logits [B, K] of a bare classifier averaged over as many views as the box averages over."""
    return losses.knowledge_augmentation(torch.stack([classifier(fixed_view(images, n)) for n in range(views)]))


def figures(
    bare: Tensor, box: SafeDistillationBox, views: int, data: LabelledImages, device: torch.device
) -> dict[str, float]:
    """Top-1 of the teacher and the tiers, their agreement and distances, on `data`.

    `bare` [N, K] are the teacher's logits, over the same `views` as the tiers `unkeyed` and `keyed`, which are measured
    as served. `weights_without_key` and `weights_wrong_key` are what the bare network gives a thief of the weights.
    """
    box.eval()

    def tier(images: Tensor, keyed: bool) -> Tensor:
        rows = len(images)
        flags = torch.full((rows,), keyed, device=images.device)
        logits: Tensor = box(images, flags, torch.full((rows,), views, device=images.device))
        return logits

    def wrong_key(images: Tensor) -> Tensor:
        key = torch.rand(images.shape[1:], generator=torch.Generator().manual_seed(0)).to(images.device)
        return box.without_key(embed(images, key, box.lam))

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
