"""What arrives encrypted: whose key opens it, that it opens once, and what undoes a pixel scheme.

Knows both schemes of docs/encryption.md; knows no model, and of HTTP only the parameters. Nothing here says why an
image does not open: an unknown key, somebody else's, a retired one and a changed byte are one refusal.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import lru_cache, partial

from PIL import Image
from sdb_client import sealed
from sdb_client.transforms import Transform, TransformError

from app import images
from app.errors import InvalidRequest
from app.schemas import Parameters
from keys.errors import StoreUnavailable, UndecryptableImage
from keys.records import Caller
from keys.service import KeyService

TRANSFORMS_KEPT = 256

Picture = Callable[[int], Image.Image]
"""An image that still has to be read: given the most pixels that it may have."""


@asynccontextmanager
async def pictures(
    keys: KeyService, caller: Caller, model: str, encoded: Sequence[bytes], parameters: Parameters
) -> AsyncIterator[list[Picture]]:
    """The images of a request, ready to be read in a worker thread; if the body fails, what it opened may come again.

    Raises:
        UndecryptableImage: no image key of the caller opens one of them, or it came before.
    """
    match parameters.encryption:
        case "sealed":
            async with _unsealed(keys, caller, model, encoded, parameters.image_key) as opened:
                yield opened
        case "pixel":
            yield await _undone(keys, caller, model, encoded, parameters.image_key)
        case "lock":
            yield [partial(_as_sent, image) for image in encoded]
        case None:
            yield [partial(images.decode, image) for image in encoded]


@asynccontextmanager
async def _unsealed(
    keys: KeyService, caller: Caller, model: str, messages: Sequence[bytes], named: str | None
) -> AsyncIterator[list[Picture]]:
    try:
        headers = [sealed.peek(message) for message in messages]
    except sealed.Unsealable:
        raise UndecryptableImage from None
    if named is not None and any(header.kid != named for header in headers):
        raise UndecryptableImage
    secrets = {kid: (await keys.image_keys.open(caller, kid, "sealed")).secret for kid in {h.kid for h in headers}}
    claimed: list[sealed.Header] = []
    try:
        for header in headers:
            await keys.image_keys.once(caller, header.kid, header.iv, header.issued_at)
            claimed.append(header)
        yield [
            partial(_opened, message, secrets[header.kid], header.kid, model)
            for message, header in zip(messages, headers, strict=True)
        ]
    except BaseException:
        # Also when the caller hung up: giving back must not be cancelled with the request.
        await asyncio.shield(asyncio.ensure_future(_forget(keys, caller, claimed)))
        raise


async def _forget(keys: KeyService, caller: Caller, claimed: Sequence[sealed.Header]) -> None:
    try:
        for header in claimed:
            await keys.image_keys.forget(caller, header.kid, header.iv)
    except StoreUnavailable:
        return  # the store forgets by itself, only later


def _opened(message: bytes, secret: bytes, kid: str, model: str, max_pixels: int) -> Image.Image:
    try:
        encoded = sealed.unseal(message, secret, kid=kid, model=model)
    except sealed.Unsealable:
        raise UndecryptableImage from None
    return images.decode(encoded, max_pixels)


async def _undone(
    keys: KeyService, caller: Caller, model: str, encoded: Sequence[bytes], kid: str | None
) -> list[Picture]:
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


def _inverted(transform: Transform, encoded: bytes, max_pixels: int) -> Image.Image:
    read = images.pixels if transform.peak < 256 else images.codes
    try:
        return Image.fromarray(transform.invert(read(encoded, max_pixels)))
    except TransformError as error:
        raise InvalidRequest(f"the encrypted image does not fit its scheme: {error}") from None


def _as_sent(encoded: bytes, max_pixels: int) -> Image.Image:
    return Image.fromarray(images.pixels(encoded, max_pixels))
