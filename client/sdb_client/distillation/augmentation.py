"""What a student sees of its images besides the images themselves. Knows pixels only."""

import torch
from torch import Tensor
from torch.nn import functional as F

from sdb_client.views import padding


def random_views(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image of [B, C, H, W] cropped at a random place of its reflect-padded self and mirrored by a fair coin."""
    batch, _, height, width = images.shape
    pad = padding(height)
    top, left = torch.randint(0, 2 * pad + 1, (2, batch, 1), generator=generator)
    mirrored = torch.rand(batch, 1, generator=generator) < 0.5
    rows = top + torch.arange(height)
    columns = left + torch.arange(width)
    columns = torch.where(mirrored, columns.flip(1), columns)
    padded = F.pad(images, (pad, pad, pad, pad), mode="reflect").movedim(1, -1)
    index = torch.arange(batch)[:, None, None].to(images.device)
    rows, columns = rows[:, :, None].to(images.device), columns[:, None, :].to(images.device)
    return padded[index, rows, columns].movedim(-1, 1)
