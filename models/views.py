"""Other views of the same image: fixed ones that an answer is averaged over, drawn ones that students are shown.

Knows pixels only. The fixed views are the identity, its mirror image, and both shifted to four corners; the drawn ones
are made on both ends and live in `sdb_client`.
"""

from sdb_client.distillation.augmentation import random_views
from sdb_client.views import MAX_VIEWS, View, draw_views, padding, seen
from torch import Tensor
from torch.nn import functional as F

__all__ = ["MAX_PASSES", "MAX_VIEWS", "View", "draw_views", "fixed_view", "padding", "random_views", "seen"]

SHIFTS = ((0, 0), (-1, -1), (-1, 1), (1, -1), (1, 1))
MAX_PASSES = 2 * len(SHIFTS)
RELATIVE_SHIFT = 16  # a fixed view moves by 1/16 of the image, two pixels of 32


def fixed_view(images: Tensor, number: int) -> Tensor:
    """View `number` in 0 … MAX_PASSES-1 of images [B, C, H, W]: 0 is the image, 1 its mirror, then the shifted ones."""
    rows, columns = SHIFTS[number // 2]
    height, width = images.shape[-2:]
    down, right = rows * height // RELATIVE_SHIFT, columns * width // RELATIVE_SHIFT
    if down or right:
        vertical, horizontal = abs(down), abs(right)
        padded = F.pad(images, (horizontal, horizontal, vertical, vertical), mode="reflect")
        images = padded[..., vertical + down :, horizontal + right :][..., :height, :width]
    return images.flip(-1) if number % 2 else images
