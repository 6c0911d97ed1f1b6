"""A prediction request from bytes to answer, in the order it happens.

authenticate (the dependency did) → decrypt → decode → charge → batch → model → settle → answer.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any

import anyio
import anyio.to_thread
import numpy as np
from PIL import Image

from app.decryption import Picture, pictures
from app.errors import InvalidRequest, Overloaded
from app.hosting import HostedModel, Logits, Models, Row
from app.schemas import Parameters
from app.settings import Settings
from keys.errors import MissingScope, StoreUnavailable
from keys.records import Caller, Hold
from keys.service import KeyService
from models.bundles import Manifest
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
    rights = _authorise(caller, model.manifest, parameters)
    _check_count(services.settings, encoded, parameters)
    async with pictures(services.keys, caller, name, encoded, parameters) as waiting:
        async with _in_time():
            views, pixels = await _decode(services, model, waiting, parameters)
        rows = [Row(shown, rights.keyed, rights.unlocked) for shown in pixels]
        async with _charged(services.keys, caller, len(rows) if rights.privileged else 0) as hold, _in_time():
            logits = np.stack(await model.batcher.submit(rows))
    temperature = parameters.temperature or (model.manifest.guard.temperature if rights.keyed else 1.0)
    predictions = _predictions(logits, model.manifest.classes, temperature, parameters.top_k)
    answer: dict[str, Any] = {
        "model": name,
        "version": model.manifest.version,
        "tier": "distill" if rights.keyed else "public",
        "predictions": predictions if parameters.views == 1 else _by_image(predictions, views),
    }
    if hold is not None:
        answer["budget"] = {"remaining": hold.budget.remaining, "limit": hold.budget.limit}
    return answer


@dataclass(frozen=True)
class _Rights:
    """What this request makes use of: undisturbed answers, the server's model key, the caller's image key."""

    keyed: bool
    unlocked: bool
    decrypted: bool

    @property
    def privileged(self) -> bool:
        """Whether its answers are charged."""
        return self.keyed or self.unlocked or self.decrypted


def _authorise(caller: Caller, manifest: Manifest, parameters: Parameters) -> _Rights:
    if not caller.may("predict", manifest.name):
        raise MissingScope("the key is not for this model")
    keyed = caller.may("distill", manifest.name)
    if (parameters.views > 1 or parameters.mix) and not keyed:
        raise MissingScope("`views` and `mix` need the scope distill")
    decrypted = parameters.encryption in {"sealed", "pixel"}
    if decrypted and not caller.may("decrypt", manifest.name):
        raise MissingScope("encrypted images need the scope decrypt")
    transformed = parameters.encryption == "lock"
    if transformed and manifest.lock is None:
        raise InvalidRequest("`encryption=lock` is for locked models, and this model is not locked")
    if transformed and parameters.views > 1:
        raise InvalidRequest("`views` need the plain image: without `encryption=lock`")
    unlocked = manifest.lock is not None and not transformed and caller.may("unlock", manifest.name)
    return _Rights(keyed, unlocked, decrypted)


def _check_count(settings: Settings, encoded: Sequence[bytes], parameters: Parameters) -> None:
    limit = settings.max_images_per_request
    if not encoded or not all(encoded):
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
