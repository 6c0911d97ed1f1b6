"""A prediction request from bytes to answer, in the order it happens.

recall (the dependency did) → admit: authenticate, charge → decrypt → decode → batch → model → settle → answer.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
import anyio.to_thread
import numpy as np
from PIL import Image

from app.admission import Asked, admitted
from app.answers import Answer, probabilities_of
from app.decryption import Picture, pictures, seals_of
from app.errors import InvalidRequest, Overloaded
from app.hosting import HostedModel, Models, Row
from app.images import Sent
from app.schemas import Parameters
from app.settings import Settings
from keys.records import Caller, Idempotency
from keys.service import KeyService
from models.data import Pixels
from models.views import View, draw_views, seen

STEP_WITHIN_S = 30.0  # for decoding, and for the model; far below the life of a hold
REQUEST_PIXELS = 4  # all images of a request together may have so many times the pixels of one


@dataclass(frozen=True)
class Services:
    """Everything that a request needs; built in `main`, passed explicitly."""

    settings: Settings
    keys: KeyService
    models: Models
    decoders: anyio.CapacityLimiter


async def predict(
    services: Services,
    caller: Caller,
    name: str,
    encoded: Sequence[Sent],
    parameters: Parameters,
    *,
    idempotency_key: str | None = None,
) -> Answer:
    """Answer images, `encoded` or as their pixels, by the model `name`."""
    model = services.models[name]
    _check_count(services.settings, encoded, parameters)
    idempotency = None if idempotency_key is None else _idempotency(idempotency_key, model, encoded, parameters)
    images, seals = len(encoded) * parameters.views, seals_of(encoded, parameters)
    asked = Asked(model.manifest, parameters, images, idempotency, seals)
    async with admitted(services.keys, caller, asked, services.settings.anonymous_rate) as request:
        rights, admission = request.rights, request.admission
        waiting = await pictures(services.keys, request.caller, name, encoded, parameters, seals=seals)
        async with _in_time():
            views, pixels = await _decode(services, model, waiting, parameters)
        rows = [Row(shown, rights.keyed, rights.unlocked) for shown in pixels]
        async with _in_time():
            logits = np.stack(await model.batcher.submit(rows))
        if admission is not None:
            await services.keys.settle(admission)
    temperature = parameters.temperature or (model.manifest.guard.temperature if rights.keyed else 1.0)
    return Answer(
        manifest=model.manifest,
        keyed=rights.keyed,
        logits=logits,
        probabilities=probabilities_of(logits, temperature),
        views=views,
        budget=None if admission is None else admission.budget,
        charged=rights.privileged,
        standings=request.standings,
    )


def _idempotency(key: str, model: HostedModel, encoded: Sequence[Sent], parameters: Parameters) -> Idempotency:
    """The request under the name that its caller gave it: what it asks, of which model."""
    asked = hashlib.sha256(f"{model.manifest.name} {model.manifest.version} {parameters.model_dump_json()}".encode())
    for image in encoded:
        if isinstance(image, bytes):
            asked.update(hashlib.sha256(image).digest())
        else:
            asked.update(str(image.shape).encode() + hashlib.sha256(image.data).digest())
    return Idempotency(hashlib.sha256(key.encode()).hexdigest(), asked.hexdigest())


def _check_count(settings: Settings, encoded: Sequence[Sent], parameters: Parameters) -> None:
    limit = settings.max_images_per_request
    if not encoded or not all(len(image) for image in encoded):
        raise InvalidRequest("the request holds no image, or an empty one")
    if len(encoded) * parameters.views > limit:
        raise InvalidRequest(f"at most {limit} images, or views of images, are accepted in one request")


async def _decode(
    services: Services, model: HostedModel, waiting: Sequence[Picture], parameters: Parameters
) -> tuple[list[list[View]], list[Pixels]]:
    """The views of each image, and what all of them show in one list."""
    if services.decoders.statistics().tasks_waiting >= services.settings.queue_limit:
        raise Overloaded("too many requests wait for their images to be decoded")

    def work() -> tuple[list[list[View]], list[Pixels]]:
        most, decoded = services.settings.max_image_pixels, []
        left = REQUEST_PIXELS * most
        for read in waiting:
            picture = read(min(most, left))
            left -= picture.width * picture.height
            decoded.append(_fitted(model, picture, parameters))
        views = [draw_views(decoded, number, parameters.views, parameters.mix) for number in range(len(decoded))]
        return views, [seen(decoded, number, view) for number, drawn in enumerate(views) for view in drawn]

    return await anyio.to_thread.run_sync(work, limiter=services.decoders, abandon_on_cancel=True)


def _fitted(model: HostedModel, picture: Image.Image, parameters: Parameters) -> Pixels:
    spec = model.manifest.input
    if parameters.encryption == "lock" and picture.size != (spec.width, spec.height):
        raise InvalidRequest(f"an image transformed with the model's key has {spec.width} by {spec.height} pixels")
    return model.predictor.fit(picture)


@asynccontextmanager
async def _in_time() -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(STEP_WITHIN_S):
            yield
    except TimeoutError:
        raise Overloaded("the answer took too long") from None
