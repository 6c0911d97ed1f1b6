"""Other views of the same image: fixed ones that soft labels are averaged over, random ones for training.

Knows pixels [B, C, H, W] only. The fixed views are the identity, its mirror image, and both shifted to four corners.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

SHIFTS = ((0, 0), (-1, -1), (-1, 1), (1, -1), (1, 1))
MAX_VIEWS = 2 * len(SHIFTS)
RELATIVE_SHIFT = 16  # a fixed view moves by 1/16 of the image, two pixels of 32
RELATIVE_PADDING = 8  # a random crop moves by up to 1/8, four pixels of 32 (He et al. 2016, §4.2)


def fixed_view(images: Tensor, number: int) -> Tensor:
    """View `number` in 0 … MAX_VIEWS-1 of images [B, C, H, W]: 0 is the image, 1 its mirror, then the shifted ones."""
    rows, columns = SHIFTS[number // 2]
    height, width = images.shape[-2:]
    down, right = rows * height // RELATIVE_SHIFT, columns * width // RELATIVE_SHIFT
    if down or right:
        vertical, horizontal = abs(down), abs(right)
        padded = F.pad(images, (horizontal, horizontal, vertical, vertical), mode="reflect")
        images = padded[..., vertical + down :, horizontal + right :][..., :height, :width]
    return images.flip(-1) if number % 2 else images


def random_views(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image of [B, C, H, W] cropped at a random place of its reflect-padded self and mirrored by a fair coin."""
    batch, _, height, width = images.shape
    pad = max(1, height // RELATIVE_PADDING)
    top, left = torch.randint(0, 2 * pad + 1, (2, batch, 1), generator=generator)
    mirrored = torch.rand(batch, 1, generator=generator) < 0.5
    rows = top + torch.arange(height)
    columns = left + torch.arange(width)
    columns = torch.where(mirrored, columns.flip(1), columns)
    padded = F.pad(images, (pad, pad, pad, pad), mode="reflect").movedim(1, -1)
    index = torch.arange(batch)[:, None, None].to(images.device)
    rows, columns = rows[:, :, None].to(images.device), columns[:, None, :].to(images.device)
    return padded[index, rows, columns].movedim(-1, 1)
