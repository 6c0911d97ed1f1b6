"""Pictures to be classified: random, with the spectrum of photographs, so that a JPEG has the size of a photograph's.

Knows Pillow; knows no model. The same seed gives the same bytes.
"""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

QUALITY = 80


def jpegs(count: int, side: int) -> list[bytes]:
    """`count` different JPEG files of `side` by `side` pixels."""
    return [_encoded(_pixels(side, seed)) for seed in range(count)]


def _pixels(side: int, seed: int) -> NDArray[np.uint8]:
    """uint8 [side, side, 3]: amplitude 1/f, random phases, grey values mostly shared by the three channels."""
    noise = np.random.default_rng(seed).normal(size=(4, side, side))
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side)[None, :])
    frequency[0, 0] = np.inf  # no mean: it is added below
    planes = np.fft.ifft2(np.fft.fft2(noise) / frequency).real
    planes /= planes.std(axis=(1, 2), keepdims=True)
    colours = planes[0] + 0.4 * planes[1:]
    pixels: NDArray[np.uint8] = (128 + 55 * colours).clip(0, 255).astype(np.uint8).transpose(1, 2, 0)
    return pixels


def _encoded(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()
