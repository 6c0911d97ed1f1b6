"""Pictures of any kind and size to the pixels that a model is shown: the same here as on the server.

Knows Pillow; who imports it needs the extra `torch`, or any Pillow.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

Pixels = NDArray[np.uint8]


def fit(image: Image.Image, height: int, width: int) -> Pixels:
    """An RGB picture of any size → uint8 [height, width, 3]: its largest centred part of that shape, antialiased.

    The part is cut out before it is resized, so that a picture of one row of a million pixels costs no more.
    """
    if image.size != (width, height):
        scale = min(image.width / width, image.height / height)
        across, down = min(width * scale, image.width), min(height * scale, image.height)  # rounding may overshoot
        left, top = (image.width - across) / 2, (image.height - down) / 2
        box = (left, top, left + across, top + down)
        image = image.resize((width, height), Image.Resampling.BILINEAR, box=box)
    return np.asarray(image, dtype=np.uint8)


def upright_rgb(image: Image.Image) -> Image.Image:
    """Any picture in RGB of 8 bits, turned as its EXIF orientation says."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16-bit grey: Pillow's own conversion would clip everything above 255
        image = Image.fromarray((np.asarray(image, dtype=np.uint32) >> 8).astype(np.uint8))
    return image.convert("RGB")
