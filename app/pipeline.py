"""A prediction request from bytes to answer, in the order it happens.

authenticate (the dependency did) → decode → charge → batch → model → settle → answer.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
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
    services: Services, caller: Caller, name: str, encoded: Sequence[bytes], parameters: Parameters
) -> dict[str, Any]:
    """The body of the answer for `encoded` images by the model `name`, lacking only the request's id."""
    model = services.models[name]
    keyed = _authorise(caller, name, parameters)
    guard = model.manifest.guard
    async with _in_time():
        views, pixels = await _decode(services, model, encoded, parameters)
    rows = [Row(shown, keyed) for shown in pixels]
    async with _charged(services.keys, caller, len(rows) if keyed else 0) as hold, _in_time():
        logits = np.stack(await model.batcher.submit(rows))
    temperature = parameters.temperature or (guard.temperature if keyed else 1.0)
    predictions = _predictions(logits, model.manifest.classes, temperature, parameters.top_k)
    answer: dict[str, Any] = {
        "model": name,
        "version": model.manifest.version,
        "tier": "distill" if keyed else "public",
        "predictions": predictions if parameters.views == 1 else _by_image(predictions, views),
    }
    if hold is not None:
        answer["budget"] = {"remaining": hold.budget.remaining, "limit": hold.budget.limit}
    return answer


def _authorise(caller: Caller, model: str, parameters: Parameters) -> bool:
    """Whether this caller's rows leave undisturbed."""
    if not caller.may("predict", model):
        raise MissingScope("the key is not for this model")
    keyed = caller.may("distill", model)
    if (parameters.views > 1 or parameters.mix) and not keyed:
        raise MissingScope("`views` and `mix` need the scope distill")
    return keyed


async def _decode(
    services: Services, model: HostedModel, encoded: Sequence[bytes], parameters: Parameters
) -> tuple[list[list[View]], list[Pixels]]:
    """The views of each image, and what all of them show in one list."""
    limit = services.settings.max_images_per_request
    if not encoded or not all(encoded):
        raise InvalidRequest("the request holds no image, or an empty one")
    if len(encoded) * parameters.views > limit:
        raise InvalidRequest(f"at most {limit} images, or views of images, are accepted in one request")
    if services.decoders.statistics().tasks_waiting >= services.settings.queue_limit:
        raise Overloaded("too many requests wait for their images to be decoded")

    def work() -> tuple[list[list[View]], list[Pixels]]:
        most, decoded = services.settings.max_image_pixels, []
        left = REQUEST_PIXELS * most
        for image in encoded:
            picture = images.decode(image, min(most, left))
            left -= picture.width * picture.height
            decoded.append(model.predictor.fit(picture))
        views = [draw_views(decoded, number, parameters.views, parameters.mix) for number in range(len(decoded))]
        return views, [seen(decoded, number, view) for number, drawn in enumerate(views) for view in drawn]

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


def _by_image(answers: list[dict[str, Any]], views: list[list[View]]) -> list[dict[str, Any]]:
    """One answer per image out of one per view: the image's own, and below it all of its views'."""
    left = iter(answers)
    grouped = []
    for drawn in views:
        rows = [next(left) for _ in drawn]
        labels = [
            {"view": asdict(view), "logits": row["logits"], "probabilities": row["probabilities"]}
            for view, row in zip(drawn, rows, strict=True)
        ]
        grouped.append({**rows[0], "views": labels})
    return grouped
