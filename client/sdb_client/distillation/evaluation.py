"""What a student is worth on images that it has not learned from."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def pixels(images: Tensor, device: torch.device) -> Tensor:
    """Images [B, C, H, W] of a loader on the device: uint8 as floats in [0, 1], floats as they are.

    Raises:
        ValueError: they are of another shape.
    """
    if images.ndim != 4 or images.shape[1] not in {1, 3}:
        raise ValueError(f"images are [B, 3, H, W], not {list(images.shape)}: does the data set lack a transform?")
    images = images.to(device, non_blocking=True)
    images = images if images.is_floating_point() else images.float() / 255
    return images.contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
def top1(student: nn.Module, loader: Iterable[tuple[Tensor, ...]], device: torch.device) -> float:
    """The share of the loader's images whose label (the second of each batch) is the student's first choice.

    Raises:
        ValueError: there is no image.
    """
    student.eval()
    right = total = 0
    for images, labels, *_ in loader:
        right += int((student(pixels(images, device)).argmax(1).cpu() == labels).sum())
        total += len(labels)
    if not total:
        raise ValueError("there is no held-out image to measure the student on")
    return right / total
