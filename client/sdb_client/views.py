"""Views of an image that a student is shown, each with a soft label of its own: drawn the same here as on the server.

Knows pixels only.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
MAX_VIEWS = 16
RELATIVE_PADDING = 8  # a drawn crop moves by up to 1/8, four pixels of 32 (He et al. 2016, §4.2)


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
