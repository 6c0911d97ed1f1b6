"""A prediction request from bytes to answer, in the order it happens.

authenticate (the dependency did) → decode → charge → batch → model → settle → answer.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.to_thread
import numpy as np

from app import images
from app.errors import InvalidRequest, Overloaded
from app.hosting import HostedModel, Logits, Models, Row
from app.schemas import Parameters
from app.settings import Settings
from keys.errors import MissingScope, StoreUnavailable
from keys.records import Caller, Hold
from keys.service import KeyService
from models.data import Pixels

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
    services: Services, caller: Caller, name: str, encoded: Sequence[bytes], parameters: Parameters
) -> dict[str, Any]:
    """The body of the answer for `encoded` images by the model `name`, lacking only the request's id."""
    model = services.models[name]
    keyed = _authorise(caller, name, parameters)
    guard = model.manifest.guard
    async with _in_time():
        pixels = await _decode(services, model, encoded)
    rows = [Row(image, keyed, parameters.views or guard.views) for image in pixels]
    async with _charged(services.keys, caller, len(rows) if keyed else 0) as hold, _in_time():
        logits = np.stack(await model.batcher.submit(rows))
    temperature = parameters.temperature or (guard.temperature if keyed else 1.0)
    answer: dict[str, Any] = {
        "model": name,
        "version": model.manifest.version,
        "tier": "distill" if keyed else "public",
        "predictions": _predictions(logits, model.manifest.classes, temperature, parameters.top_k),
    }
    if hold is not None:
        answer["budget"] = {"remaining": hold.budget.remaining, "limit": hold.budget.limit}
    return answer


def _authorise(caller: Caller, model: str, parameters: Parameters) -> bool:
    """Whether this caller's rows leave undisturbed."""
    if not caller.may("predict", model):
        raise MissingScope("the key is not for this model")
    keyed = caller.may("distill", model)
    if parameters.views is not None and not keyed:
        raise MissingScope("`views` needs the scope distill")
    return keyed


async def _decode(services: Services, model: HostedModel, encoded: Sequence[bytes]) -> list[Pixels]:
    limit = services.settings.max_images_per_request
    if not encoded or not all(encoded):
        raise InvalidRequest("the request holds no image, or an empty one")
    if len(encoded) > limit:
        raise InvalidRequest(f"at most {limit} images are accepted in one request")
    if services.decoders.statistics().tasks_waiting >= services.settings.queue_limit:
        raise Overloaded("too many requests wait for their images to be decoded")

    def work() -> list[Pixels]:
        most, decoded = services.settings.max_image_pixels, []
        left = REQUEST_PIXELS * most
        for image in encoded:
            picture = images.decode(image, min(most, left))
            left -= picture.width * picture.height
            decoded.append(model.predictor.fit(picture))
        return decoded

    return await anyio.to_thread.run_sync(work, limiter=services.decoders, abandon_on_cancel=True)


@asynccontextmanager
async def _in_time() -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(STEP_WITHIN_S):
            yield
    except TimeoutError:
        raise Overloaded("the answer took too long") from None


@asynccontextmanager
async def _charged(keys: KeyService, caller: Caller, count: int) -> AsyncIterator[Hold | None]:
    """Hold `count` answers while the body runs; settle them if it ends well, give them back if it does not."""
    if not count:
        yield None
        return
    hold = await keys.charge(caller, count)
    try:
        yield hold
    except BaseException:
        # Also when the caller hung up: the release must not be cancelled with the request.
        await asyncio.shield(asyncio.ensure_future(_release(keys, hold)))
        raise
    await keys.settle(hold)


async def _release(keys: KeyService, hold: Hold) -> None:
    try:
        await keys.release(hold)
    except StoreUnavailable:
        return  # the store gives an abandoned hold back by itself


def _predictions(logits: Logits, classes: Sequence[str], temperature: float, top_k: int) -> list[dict[str, Any]]:
    """One answer per row of logits [B, K]."""
    scaled = logits.astype(np.float64) / temperature
    exponent = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    probabilities = (exponent / exponent.sum(axis=1, keepdims=True)).astype(np.float32)
    order = np.argsort(-logits, axis=1, kind="stable")[:, :top_k]
    answers = []
    for row, indices in enumerate(order):
        top = [{"label": classes[index], "index": int(index), "score": probabilities[row, index]} for index in indices]
        answers.append({**top[0], "top": top, "logits": logits[row], "probabilities": probabilities[row]})
    return answers
