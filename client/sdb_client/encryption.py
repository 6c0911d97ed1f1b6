"""`client.encrypt`: an image as only the server can read it, with the image key that an admin has issued.

Knows both schemes (docs/encryption.md) and image files; knows no request.
"""

from functools import lru_cache

import numpy as np

from sdb_client.answers.keys import NewImageKey
from sdb_client.errors import InvalidImage
from sdb_client.images import Image, encoded, pixels
from sdb_client.png import png
from sdb_client.sealed import seal
from sdb_client.transforms import Transform

TRANSFORMS_KEPT = 8  # Fisher and Yates take a millisecond for a block of 16 by 16


class Encryption:
    """Both schemes of image encryption; `key` is the image key from the answer that created it."""

    @staticmethod
    def sealed(image: Image, key: NewImageKey, *, model: str) -> bytes:
        """A COSE message that nobody else reads and nobody changes unseen; the server takes it once.

        Raises:
            InvalidImage: it is no image, or the key is not for this scheme.
        """
        _check(key, "sealed")
        return seal(encoded(image), key.secret_bytes, kid=key.kid, model=model)

    @staticmethod
    def pixel(image: Image, key: NewImageKey, *, model: str) -> bytes:
        """A PNG whose pixels only this key puts in order: access control, not confidentiality.

        Height and width are multiples of the key's block. Of a file the pixels must be read, which needs Pillow.

        Raises:
            InvalidImage: it is no image of such a size, or the key is not for this scheme.
        """
        _check(key, "pixel")
        transform = _transform(key.secret_bytes, key.kid, model, str(key.transform), int(key.block or 0))
        try:
            shown = transform.apply(pixels(image))
        except ValueError as error:
            raise InvalidImage(str(error)) from error
        if shown.dtype == np.uint16:  # codes: the three of a pixel side by side, since many know no RGB of 16 bits
            shown = shown.reshape(len(shown), -1)
        return png(shown)


def encrypted(image: Image, key: NewImageKey, model: str) -> bytes:
    """The image by the scheme that the key is for."""
    scheme = Encryption.sealed if key.scheme == "sealed" else Encryption.pixel
    return scheme(image, key, model=model)


def _check(key: NewImageKey, scheme: str) -> None:
    if key.scheme != scheme:
        raise InvalidImage(f"the image key {key.kid} is for the scheme {key.scheme}, not {scheme}")


@lru_cache(maxsize=TRANSFORMS_KEPT)
def _transform(secret: bytes, kid: str, model: str, step: str, block: int) -> Transform:
    return Transform.from_secret(secret, kid=kid, model=model, steps=(step,), block=block)
