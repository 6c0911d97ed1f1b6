"""Images as they go into a request: encrypted here if an image key is given with its secret, and named if not.

Knows the parameters that say so; knows no protocol.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from sdb_client.answers.keys import NewImageKey
from sdb_client.errors import InvalidImage
from sdb_client.images import Images, encoded, several

Encrypted: TypeAlias = Literal["sealed", "pixel", "lock"]


@dataclass(frozen=True)
class Sent:
    """The bytes of each image, and the parameters that say how they are encrypted; None: not."""

    images: list[bytes]
    encryption: Encrypted | None
    image_key: str | None


def sent(images: Images, model: str, encryption: Encrypted | None, image_key: NewImageKey | str | None) -> Sent:
    """Images ready to be sent to a model.

    With an image key from the answer that created it they are encrypted by its scheme. With a key's id, or none, they
    are sent as they are, and `encryption` says what they are already.

    Raises:
        InvalidImage: one of them is no image, there is none, or the key is for another scheme than `encryption`.
    """
    given = several(images)
    if not given:
        raise InvalidImage("there is no image to send")
    if not isinstance(image_key, NewImageKey):
        return Sent([encoded(image) for image in given], encryption, image_key)
    if encryption not in {None, image_key.scheme}:
        raise InvalidImage(f"the image key {image_key.kid} is for the scheme {image_key.scheme}, not {encryption}")
    from sdb_client.encryption import encrypted  # noqa: PLC0415 - its ciphers load in a tenth of a second

    scheme: Encrypted = "sealed" if image_key.scheme == "sealed" else "pixel"
    return Sent([encrypted(image, image_key, model) for image in given], scheme, image_key.kid)
