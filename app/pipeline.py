"""A prediction request from bytes to answer, in the order it happens.

recall (the dependency did) → admit: authenticate, charge → decrypt → decode → batch → model → watch → mark → settle →
answer.
"""

import asyncio
import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import anyio
import anyio.to_thread
import numpy as np
from PIL import Image

from app.admission import Asked, admitted
from app.answers import Answer, probabilities_of
from app.decryption import Picture, pictures, seals_of
from app.errors import InvalidRequest, Overloaded, TooManyPixels
from app.hosting import Model, Models, Rows
from app.images import AT_ONCE_PIXELS, Decoded, Sendable, area, at_once
from app.journal import current
from app.marking import Marking
from app.metrics.recorder import Metrics
from app.schemas import Parameters
from app.settings import Settings
from app.watch import Watch
from keys.records import Caller, Idempotency
from keys.service import KeyService
from models.data import Pixels
from models.views import View, draw_views, seen

WITHIN_S = 30.0  # for decoding and the model; far below the life of a hold
REQUEST_PIXELS = 4  # all images of a request together may have so many times the pixels of one
Views = list[list[View]]


@dataclass(frozen=True)
class Services:
    """Everything that a request needs; built in `main`, passed explicitly."""

    settings: Settings
    keys: KeyService
    models: Models
    decoders: anyio.CapacityLimiter
    marking: Marking
    metrics: Metrics
    watch: Watch | None = None
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the server was told to stop: it answers, and is not ready for more."""


async def predict(
    services: Services,
    caller: Caller,
    name: str,
    encoded: Sendable,
    parameters: Parameters,
    *,
    idempotency_key: str | None = None,
) -> Answer:
    """Answer images, `encoded` or as their pixels, by the model `name`."""
    model = services.models[name]
    _check_count(services.settings, encoded, parameters)
    idempotency = None if idempotency_key is None else _idempotency(idempotency_key, model, encoded, parameters)
    images, seals = len(encoded) * parameters.views, seals_of(encoded, parameters)
    entry = current()
    entry.model, entry.images = name, images
    entry.stage("admit")
    if services.watch is not None:
        caller = await services.watch.met(caller, name, images)
    asked = Asked(model.manifest, parameters, images, idempotency, seals)
    async with admitted(services.keys, caller, asked, services.settings.anonymous_rate) as request:
        rights, admission = request.rights, request.admission
        entry.tier = "distill" if rights.keyed else "public"
        entry.stage("decode")
        waiting = await pictures(services.keys, request.caller, name, encoded, parameters, seals=seals)
        try:
            async with asyncio.timeout(WITHIN_S):
                views, pixels = await _decoded(services, model, encoded, waiting, parameters)
                entry.stage("queue")
                rows = Rows(pixels, rights.keyed, rights.unlocked)
                vectors = await model.submit(rows)
                entry.stage("model", min(rows.ran, default=entry.latest_ns))
                logits = vectors.logits
                if services.watch is not None:
                    entry.stage("watch")
                    logits = services.watch.saw(request.caller, model.manifest, parameters, rows, vectors)
                if rights.keyed:
                    entry.stage("mark")
                    logits = await services.marking.marked(request.caller, model.manifest, pixels, logits)
        except TimeoutError:
            raise Overloaded("the answer took too long") from None
        if admission is not None:
            entry.stage("settle")
            await services.keys.settle(admission)
            entry.charge = 0 if admission.replayed else admission.charge
    entry.stage("answer")
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


def _idempotency(key: str, model: Model, encoded: Sendable, parameters: Parameters) -> Idempotency:
    """The request under the name that its caller gave it: what it asks, of which model."""
    asked = hashlib.sha256(f"{model.manifest.name} {model.manifest.version} {parameters.model_dump_json()}".encode())
    for image in encoded:
        if isinstance(image, bytes):
            asked.update(hashlib.sha256(image).digest())
        else:
            asked.update(str(image.shape).encode() + hashlib.sha256(np.ascontiguousarray(image).data).digest())
    return Idempotency(hashlib.sha256(key.encode()).hexdigest(), asked.hexdigest())


def _check_count(settings: Settings, encoded: Sendable, parameters: Parameters) -> None:
    limit = settings.max_images_per_request
    if not len(encoded) or not all(len(image) for image in encoded):
        raise InvalidRequest("the request holds no image, or an empty one")
    if len(encoded) * parameters.views > limit:
        raise InvalidRequest(f"at most {limit} images, or views of images, are accepted in one request")


async def _decoded(
    services: Services,
    model: Model,
    encoded: Sendable,
    waiting: Sequence[Picture],
    parameters: Parameters,
) -> tuple[Views, Pixels]:
    """The views of each image, and what all of them show: uint8 [N, H, W, 3]."""
    most = services.settings.max_image_pixels
    ready = _as_they_are(model, encoded, parameters)
    if ready is not None and ready.size <= 3 * most:
        return [draw_views([image], 0, 1, 0.0) for image in ready], ready

    def work(each: int) -> tuple[Views, Pixels]:
        decoded, left = [], REQUEST_PIXELS * each
        for read in waiting:
            picture = read(min(each, left))
            left -= area(picture)
            decoded.append(_fitted(model, picture, parameters))
        views = [draw_views(decoded, number, parameters.views, parameters.mix) for number in range(len(decoded))]
        shown = [seen(decoded, number, view) for number, drawn in enumerate(views) for view in drawn]
        return views, shown[0][None] if len(shown) == 1 else np.stack(shown)

    if _at_once(encoded, parameters):
        with suppress(TooManyPixels):
            return work(min(most, AT_ONCE_PIXELS))
    if services.decoders.statistics().tasks_waiting >= services.settings.queue_limit:
        raise Overloaded("too many requests wait for their images to be decoded")
    return await anyio.to_thread.run_sync(work, most, limiter=services.decoders, abandon_on_cancel=True)


def _as_they_are(model: Model, encoded: Sendable, parameters: Parameters) -> Pixels | None:
    """The images, if the model is shown them as they came: one array of its input's size, in the plain."""
    spec = model.manifest.input
    if not isinstance(encoded, np.ndarray) or parameters.encryption is not None or parameters.views > 1:
        return None
    return encoded if encoded.shape[1:] == (spec.height, spec.width, 3) else None


def _at_once(encoded: Sendable, parameters: Parameters) -> bool:
    """Whether to decode is sooner done than handed over: one small image that no key has to open first."""
    plain = len(encoded) == 1 and parameters.encryption is None and parameters.views == 1
    return plain and at_once(encoded[0])


def _fitted(model: Model, picture: Decoded, parameters: Parameters) -> Pixels:
    spec = model.manifest.input
    shape = picture.shape[:2] if isinstance(picture, np.ndarray) else (picture.height, picture.width)
    if isinstance(picture, np.ndarray) and shape == (spec.height, spec.width):
        return picture
    if parameters.encryption == "lock" and shape != (spec.height, spec.width):
        raise InvalidRequest(f"an image transformed with the model's key has {spec.width} by {spec.height} pixels")
    return model.fit(Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture)
