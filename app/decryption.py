"""What arrives encrypted: whose key opens it, what tells it from others, and what undoes a pixel scheme.

Knows both schemes of docs/encryption.md; knows no model, and of HTTP only the parameters. Nothing here says why an
image does not open: an unknown key, somebody else's, a retired one and a changed byte are one refusal.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial

from sdb_client import sealed
from sdb_client.transforms import Transform, TransformError

from app import images
from app.errors import InvalidRequest
from app.images import Decoded, Sendable, Sent
from app.schemas import Parameters
from keys.errors import UndecryptableImage
from keys.records import Caller, Seal
from keys.service import KeyService

TRANSFORMS_KEPT = 256

Picture = Callable[[int], Decoded]
"""An image that still has to be read: given the most pixels that it may have."""


def seals_of(encoded: Sendable, parameters: Parameters) -> tuple[Seal, ...]:
    """What tells the sealed images of a request from any others; nothing if they are none, which `pictures` refuses.

    Raises:
        InvalidRequest: they are pixels, which cannot be sealed.
    """
    if parameters.encryption != "sealed":
        return ()
    try:
        headers = [sealed.peek(message) for message in _messages(encoded)]
    except sealed.Unsealable:
        return ()
    return tuple(Seal(header.kid, header.iv, header.issued_at) for header in headers)


def _messages(encoded: Sendable) -> list[bytes]:
    messages = [message for message in encoded if isinstance(message, bytes)]
    if len(messages) < len(encoded):
        raise InvalidRequest("`encryption=sealed` is of encoded images: pixels cannot be sealed")
    return messages


async def pictures(
    keys: KeyService,
    caller: Caller,
    model: str,
    encoded: Sendable,
    parameters: Parameters,
    *,
    seals: Sequence[Seal],
) -> list[Picture]:
    """The images of a request, ready to be read in a worker thread; `seals` is what `seals_of` gave for them.

    Raises:
        UndecryptableImage: no image key of the caller opens one of them.
    """
    match parameters.encryption:
        case "sealed":
            return await _unsealed(keys, caller, model, _messages(encoded), seals=seals, named=parameters.image_key)
        case "pixel":
            return await _undone(keys, caller, model, encoded, parameters.image_key)
        case "lock":
            return [partial(_as_sent, image) for image in encoded]
        case None:
            return [partial(images.decode, image) for image in encoded]


async def _unsealed(
    keys: KeyService,
    caller: Caller,
    model: str,
    messages: Sequence[bytes],
    *,
    seals: Sequence[Seal],
    named: str | None,
) -> list[Picture]:
    kids = [seal.kid for seal in seals]
    if len(kids) < len(messages) or (named is not None and any(kid != named for kid in kids)):
        raise UndecryptableImage
    secrets = {kid: (await keys.image_keys.open(caller, kid, "sealed")).secret for kid in set(kids)}
    return [partial(_opened, message, secrets[kid], kid, model) for message, kid in zip(messages, kids, strict=True)]


def _opened(message: bytes, secret: bytes, kid: str, model: str, max_pixels: int) -> Decoded:
    try:
        encoded = sealed.unseal(message, secret, kid=kid, model=model)
    except sealed.Unsealable:
        raise UndecryptableImage from None
    return images.decode(encoded, max_pixels)


async def _undone(keys: KeyService, caller: Caller, model: str, encoded: Sendable, kid: str | None) -> list[Picture]:
    if kid is None:
        raise InvalidRequest("`encryption=pixel` needs `image_key`, the id of the image key")
    key = await keys.image_keys.open(caller, kid, "pixel")
    if key.transform is None or key.block is None:
        raise UndecryptableImage
    transform = _transform(key.secret, kid, model, key.transform, key.block)
    return [partial(_inverted, transform, image) for image in encoded]


@lru_cache(maxsize=TRANSFORMS_KEPT)
def _transform(secret: bytes, kid: str, model: str, step: str, block: int) -> Transform:
    """A client's pixel key; kept, because Fisher and Yates take a millisecond for a block of 16 by 16."""
    return Transform.from_secret(secret, kid=kid, model=model, steps=(step,), block=block)


def _inverted(transform: Transform, encoded: Sent, max_pixels: int) -> Decoded:
    read = images.pixels if transform.peak < 256 else images.codes
    try:
        return transform.invert(read(encoded, max_pixels))
    except TransformError as error:
        raise InvalidRequest(f"the encrypted image does not fit its scheme: {error}") from None


def _as_sent(encoded: Sent, max_pixels: int) -> Decoded:
    return images.pixels(encoded, max_pixels)
