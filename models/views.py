"""Other views of the same image: fixed ones that an answer is averaged over, drawn ones that students are shown.

Knows pixels only. The fixed views are the identity, its mirror image, and both shifted to four corners.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from models.data import Pixels

SHIFTS = ((0, 0), (-1, -1), (-1, 1), (1, -1), (1, 1))
MAX_PASSES = 2 * len(SHIFTS)
MAX_VIEWS = 16
RELATIVE_SHIFT = 16  # a fixed view moves by 1/16 of the image, two pixels of 32
RELATIVE_PADDING = 8  # a drawn crop moves by up to 1/8, four pixels of 32 (He et al. 2016, §4.2)


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


@dataclass(frozen=True)
class View:
    """How one view was made: blended with another image, cropped out of its reflect-padded self, then mirrored.

    `top` and `left` in 0 … 2·padding(height): where the crop begins; the image itself is at the padding. `partner` is
    the place in the request of the image blended in, and `share` how much of the blend is the image's own.
    """

    top: int
    left: int
    mirrored: bool = False
    partner: int | None = None
    share: float = 1.0


def padding(height: int) -> int:
    """By how many pixels an image of `height` is padded before it is cropped."""
    return max(1, height // RELATIVE_PADDING)


def draw_views(images: list[Pixels], number: int, count: int, mix: float) -> list[View]:
    """`count` views of images[number] uint8 [H, W, 3], the first of which is the image itself.

    They are a function of the pixels: who asks again gets the same views, and more views begin with the fewer. With
    `mix` in (0, 0.5], other images of the request are blended in, with shares uniform in [0, mix].
    """
    pixels = images[number]
    pad = padding(len(pixels))
    views = [View(pad, pad)]
    if count == 1:
        return views  # what most callers ask for is spared the hash
    draw = np.random.default_rng(list(hashlib.sha256(pixels.tobytes()).digest()))
    while len(views) < count:
        top, left = (int(place) for place in draw.integers(0, 2 * pad + 1, 2))
        mirrored, blended, place = bool(draw.random() < 0.5), mix * float(draw.random()), float(draw.random())
        partner = int(place * len(images))
        mixed = blended > 0 and partner != number
        views.append(View(top, left, mirrored, partner if mixed else None, 1 - blended if mixed else 1.0))
    return views


def seen(images: list[Pixels], number: int, view: View) -> Pixels:
    """What `view` shows of images[number]: uint8 [H, W, 3], the same on every machine."""
    pixels = images[number]
    if view.partner is not None:
        blend = view.share * pixels.astype(np.float64) + (1 - view.share) * images[view.partner].astype(np.float64)
        pixels = np.rint(blend).astype(np.uint8)
    height, width = pixels.shape[:2]
    pad = padding(height)
    if view == View(pad, pad):
        return pixels
    padded = np.pad(pixels, ((pad, pad), (pad, pad), (0, 0)), mode="reflect")
    cropped = padded[view.top : view.top + height, view.left : view.left + width]
    return np.ascontiguousarray(cropped[:, ::-1] if view.mirrored else cropped)


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
