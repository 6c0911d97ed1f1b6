"""The caller's side of the Safe Distillation Box.

A name is loaded when it is first asked for: the server, which shares the image encryption, needs no HTTP client, and
only who distils needs torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sdb_client.answers.inference import Inference
    from sdb_client.answers.keys import Key, NewImageKey, NewKey
    from sdb_client.answers.models import ModelCard
    from sdb_client.answers.predictions import Prediction, Predictions
    from sdb_client.async_client import AsyncClient
    from sdb_client.client import Client
    from sdb_client.distillation.distill import distill
    from sdb_client.errors import APIConnectionError, APIError, APITimeoutError, SdbError
    from sdb_client.soft_labels.dataset import SoftLabels

__all__ = [
    "APIConnectionError",
    "APIError",
    "APITimeoutError",
    "AsyncClient",
    "Client",
    "Inference",
    "Key",
    "ModelCard",
    "NewImageKey",
    "NewKey",
    "Prediction",
    "Predictions",
    "SdbError",
    "SoftLabels",
    "distill",
]

_HOMES = {
    "APIConnectionError": "errors",
    "APIError": "errors",
    "APITimeoutError": "errors",
    "AsyncClient": "async_client",
    "Client": "client",
    "Inference": "answers.inference",
    "Key": "answers.keys",
    "ModelCard": "answers.models",
    "NewImageKey": "answers.keys",
    "NewKey": "answers.keys",
    "Prediction": "answers.predictions",
    "Predictions": "answers.predictions",
    "SdbError": "errors",
    "SoftLabels": "soft_labels.dataset",
    "distill": "distillation.distill",
}

if not TYPE_CHECKING:  # or every name would be there for a type checker

    def __getattr__(name: str) -> object:
        home = _HOMES.get(name)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{home}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
