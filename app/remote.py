"""The customer's door over the network: an `Oracle` that asks a running server, as any client would.

Knows the HTTP contract of `/v1`; knows nothing of how the server answers.
"""

import hashlib
import io
import re
import time
from typing import Any, TypeVar
from weakref import finalize

import httpx
import numpy as np
import torch
from PIL import Image
from pydantic import BaseModel, ValidationError
from torch import Tensor
from torch.nn import functional as F

from app.errors import RemoteError, explain
from app.schemas import ModelCard, Predictions
from models.bundles import InputSpec
from models.evaluation.arms import Doors
from models.evaluation.subject import Subject

IMAGES_PER_REQUEST = 100
BYTES_PER_REQUEST = 8 * 2**20  # of raw pixels: half of what a server accepts by default
RETRIES = 5
LONGEST_PAUSE_S = 60
REQUEST_TIMEOUT_S = 120.0
PROBES = 16  # images whose answers tell one model behind a URL from the next

Body = TypeVar("Body", bound=BaseModel)


class RemoteModel:
    """One model of one server, asked with one credential or with none."""

    def __init__(self, url: str, model: str, credential: str | None) -> None:
        self._server, self._url = url, f"{url.rstrip('/')}/v1/models/{model}"
        self._headers = {} if credential is None else {"Authorization": f"Bearer {credential}"}
        self._caller = "a caller without credential" if credential is None else "the credential given"
        self._client = httpx.Client(timeout=REQUEST_TIMEOUT_S)
        finalize(self, self._client.close)  # an oracle has no end of its own

    def card(self) -> ModelCard:
        """What the server says of the model: version, classes, input size, the tiers this credential has.

        Raises:
            RemoteError: no server, no such model, or a credential that is not valid.
        """
        return self._ask(ModelCard, "GET", self._url)

    def query(self, images: Tensor) -> Tensor:
        """Logits float32 [N, K] of images uint8 [N, 3, H, W], sent as PNG: the pixels arrive bit for bit.

        Raises:
            RemoteError: refused, for instance because the key's budget is spent.
        """
        at_once = max(1, min(IMAGES_PER_REQUEST, BYTES_PER_REQUEST // images.shape[1:].numel()))
        rows = [row for chunk in torch.split(images, at_once) for row in self._logits(chunk)]
        if len(rows) != len(images) or len({len(row) for row in rows}) > 1:
            raise RemoteError(f"{self._server} does not give one vector of logits per image")
        return torch.tensor(rows, dtype=torch.float32)

    def _logits(self, images: Tensor) -> list[list[float]]:
        pictures = [_png(image) for image in images.permute(0, 2, 3, 1).numpy()]
        files = [("image", (f"{number}.png", picture, "image/png")) for number, picture in enumerate(pictures)]
        answer = self._ask(Predictions, "POST", f"{self._url}/predict", params={"top_k": 1}, files=files)
        return [prediction.logits for prediction in answer.predictions]

    def _ask(self, expected: type[Body], method: str, url: str, **options: Any) -> Body:  # noqa: ANN401 - httpx's own
        answer = self._answer(method, url, **options)
        try:
            return expected.model_validate_json(answer.content)
        except ValidationError as error:
            raise RemoteError(f"{self._server} answers something else: {explain(error.errors())}") from error

    def _answer(self, method: str, url: str, **options: Any) -> httpx.Response:  # noqa: ANN401
        for attempt in range(RETRIES):
            try:
                answer = self._client.request(method, url, headers=self._headers, **options)
            except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:  # the last for names that DNS cannot say
                raise RemoteError(f"{self._server} does not answer: {error}") from error
            if answer.is_success:
                return answer
            seconds = pause(answer.headers.get("Retry-After", ""))
            if seconds is None or attempt == RETRIES - 1:
                break
            time.sleep(seconds)
        raise RemoteError(f"{self._server} refuses {self._caller}: {_reason(answer)}")


def under_attack(url: str, model: str, credential: str | None) -> Subject:
    """The model on a live server as an attacker meets it: no weights, and a key holder's tier only with a credential.

    Raises:
        RemoteError: the server or the model is not there, its public door is closed, or the credential is not worth
            the scope `distill`.
    """
    public, left_out = RemoteModel(url, model, None), ["the bare teacher and the weights: a server does not show them"]
    card = public.card()
    authorised = None if credential is None else RemoteModel(url, model, credential)
    if authorised is not None and "distill" not in authorised.card().tiers:
        raise RemoteError("the credential given lacks the scope distill")
    if authorised is None:
        left_out.append("key holders, and attacks that learn from clean answers: no --token")
    spec = InputSpec(height=card.input.height, width=card.input.width)
    return Subject(
        card.name,
        card.version,
        "unknown",
        tuple(card.classes),
        spec,
        url,
        {"url": url, "answers": _fingerprint(public, spec)},
        Doors(public=public, authorised=authorised, teacher=None),
        left_out=left_out,
    )


def pause(retry_after: str) -> int | None:
    """Seconds to wait before asking again, by the header of that name; None if it does not give them as a number."""
    return min(int(retry_after), LONGEST_PAUSE_S) if re.fullmatch("[0-9]{1,9}", retry_after) else None


def _fingerprint(public: RemoteModel, spec: InputSpec) -> str:
    """SHA-256 of the answers to a few fixed smooth images, to one decimal: another model gives another one."""
    coarse = torch.rand(PROBES, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    images = F.interpolate(coarse, (spec.height, spec.width), mode="bicubic").clamp(0, 1).mul(255).to(torch.uint8)
    tenths = public.query(images).mul(10).round().to(torch.int64)  # whole numbers: −0.0 is not 0.0
    return hashlib.sha256(tenths.numpy().tobytes()).hexdigest()


def _reason(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"])
    except (ValueError, KeyError, TypeError):
        return f"status {answer.status_code}"


def _png(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
