"""Images as data sets have them (PIL, array, tensor) to the pixels that a model is shown, and back. Needs torch."""

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sdb_client.errors import InvalidImage
from sdb_client.fitting import Pixels, fit, upright_rgb


def pixels_of(image: object) -> Pixels:
    """RGB pixels uint8 [H, W, 3] of a PIL image, an array uint8 [H, W, 3] or [H, W], or a tensor.

    A tensor is [3, H, W] or [1, H, W], uint8, or floating point in [0, 1] as torchvision's `ToTensor` makes it.

    Raises:
        InvalidImage: it is none of these; a picture that is already normalised, for instance.
    """
    if isinstance(image, Image.Image):
        return np.asarray(upright_rgb(image))
    if isinstance(image, Tensor):
        image = _bytes_of(image).permute(1, 2, 0).numpy() if image.ndim == 3 else image.numpy()
    if isinstance(image, np.ndarray) and image.dtype == np.uint8:
        if image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 1):
            image = np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2)
        if image.ndim == 3 and image.shape[2] == 3:
            return np.ascontiguousarray(image)
    raise InvalidImage(
        "an image of the data set is a PIL image, an array uint8 [H, W, 3], or a tensor [3, H, W] of uint8 or in "
        "[0, 1]; everything else that the student should see belongs in `transform`"
    )


def _bytes_of(image: Tensor) -> Tensor:
    if not image.is_floating_point():
        return image
    if image.amin() < 0 or image.amax() > 1:
        raise InvalidImage("the numbers of a tensor are in [0, 1]: normalise in `transform`, after the soft label")
    return (image * 255).round().to(torch.uint8)


def fitted(pixels: Pixels, height: int, width: int) -> Pixels:
    """The pixels at the size of a model's input, as the server would fit them."""
    if pixels.shape[:2] == (height, width):
        return pixels
    return np.ascontiguousarray(fit(Image.fromarray(pixels), height, width))


def like(pixels: Pixels, image: object) -> Any:  # noqa: ANN401 - what `image` is
    """Pixels uint8 [H, W, 3] as the same kind of thing that `image` is."""
    if isinstance(image, Image.Image):
        return Image.fromarray(pixels)
    if isinstance(image, Tensor):
        tensor = torch.from_numpy(pixels).permute(2, 0, 1)
        return tensor.to(image.dtype) / 255 if image.is_floating_point() else tensor
    return pixels
