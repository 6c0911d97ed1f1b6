"""The customer's door over the network: an `Oracle` that asks a running server, as any client would.

Knows the client library; knows nothing of HTTP, nor of how the server answers.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import finalize

import torch
from sdb_client import Client, ModelCard, SdbError
from torch import Tensor
from torch.nn import functional as F

from app.errors import RemoteError
from models.bundles import InputSpec
from models.data import pixels_of
from models.evaluation.arms import Doors
from models.evaluation.subject import Subject

IMAGES_PER_REQUEST = 100
BYTES_PER_REQUEST = 8 * 2**20  # of raw pixels: half of what a server accepts by default
REQUEST_TIMEOUT_S = 120.0
PROBES = 16  # images whose answers tell one model behind a URL from the next


class RemoteModel:
    """One model of one server, asked with one credential or with none."""

    def __init__(self, url: str, model: str, credential: str | None) -> None:
        self._server, self._model = url, model
        self._caller = "a caller without credential" if credential is None else "the credential given"
        self._client = Client(credential or "", url, timeout=REQUEST_TIMEOUT_S)
        finalize(self, self._client.close)  # an oracle has no end of its own

    def card(self) -> ModelCard:
        """What the server says of the model: version, classes, input size, the tiers this credential has.

        Raises:
            RemoteError: no server, no such model, or a credential that is not valid.
        """
        with self._told():
            return self._client.models.get(self._model)

    def query(self, images: Tensor) -> Tensor:
        """Logits float32 [N, K] of images uint8 [N, 3, H, W].

        Raises:
            RemoteError: refused, for instance because the key's budget is spent.
        """
        at_once = max(1, min(IMAGES_PER_REQUEST, BYTES_PER_REQUEST // images.shape[1:].numel()))
        return torch.cat([self._logits(chunk) for chunk in torch.split(images, at_once)])

    def _logits(self, images: Tensor) -> Tensor:
        with self._told():
            logits = torch.tensor(self._client.infer(self._model, pixels_of(images), outputs=["logits"]).logits)
        if logits.ndim != 2:
            raise RemoteError(f"{self._server} does not give one vector of logits per image")
        return logits

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except SdbError as error:
            raise RemoteError(f"{self._server}, asked by {self._caller}: {error}") from error


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


def _fingerprint(public: RemoteModel, spec: InputSpec) -> str:
    """SHA-256 of the answers to a few fixed smooth images, to one decimal: another model gives another one."""
    coarse = torch.rand(PROBES, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    images = F.interpolate(coarse, (spec.height, spec.width), mode="bicubic").clamp(0, 1).mul(255).to(torch.uint8)
    tenths = public.query(images).mul(10).round().to(torch.int64)  # whole numbers: −0.0 is not 0.0
    return hashlib.sha256(tenths.numpy().tobytes()).hexdigest()
