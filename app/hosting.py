"""The models of this server: each bundle with its predictor and its batcher.

The place where HTTP's world (items of a request) meets the models' (arrays of a batch).
"""

import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.batching import Batcher
from app.errors import UnknownModel
from app.settings import Settings
from app.state import State
from models import bundles
from models.bundles import Manifest
from models.data import Pixels
from models.predictor import Predictor, choose_device

Logits = NDArray[np.float32]
log = logging.getLogger("sdb.models")


@dataclass(frozen=True)
class Row:
    """One image of a batch: uint8 [H, W, 3], may its answer leave undisturbed, does the server unlock it."""

    pixels: Pixels
    keyed: bool
    unlocked: bool = False


@dataclass
class Work:
    """What a model has done for callers: images, forward passes, the time they took, and the end of the last (Unix)."""

    images: int = 0
    passes: int = 0
    busy_ns: int = 0
    last_ms: int = 0


class HostedModel:
    """A loaded model behind its queue; `work` is written by the queue's thread alone."""

    def __init__(self, predictor: Predictor, settings: Settings) -> None:
        self.predictor, self.work = predictor, Work()
        self.batcher: Batcher[Row, Logits] = Batcher(
            self._answer,
            max_batch=settings.max_batch,
            wait_s=settings.batch_wait_ms / 1000,
            queue_limit=settings.queue_limit,
        )

    @property
    def manifest(self) -> Manifest:
        """What the bundle says."""
        return self.predictor.manifest

    def _answer(self, rows: list[Row]) -> list[Logits]:
        began = time.perf_counter_ns()
        logits = self._predict(rows)
        self.work.images += len(rows)
        self.work.passes += 1
        self.work.busy_ns += time.perf_counter_ns() - began
        self.work.last_ms = time.time_ns() // 1_000_000
        return logits

    def _predict(self, rows: list[Row]) -> list[Logits]:
        pixels = np.stack([row.pixels for row in rows])
        keyed = np.array([row.keyed for row in rows])
        unlocked = np.array([row.unlocked for row in rows])
        return list(self.predictor(pixels, keyed, unlocked))

    def warm_up(self) -> None:
        """One batch of each size class, so that the first caller does not pay for allocations."""
        blank = np.zeros((self.manifest.input.height, self.manifest.input.width, 3), np.uint8)
        for size in (1, 8):
            self._predict([Row(blank, keyed=bool(number % 2), unlocked=True) for number in range(size)])


class Models:
    """All hosted models by name."""

    def __init__(self, hosted: Mapping[str, HostedModel]) -> None:
        self._hosted = hosted

    def __iter__(self) -> Iterator[HostedModel]:
        return iter(self._hosted.values())

    def __getitem__(self, name: str) -> HostedModel:
        """The model called `name`; raises UnknownModel."""
        try:
            return self._hosted[name]
        except KeyError:
            raise UnknownModel("no model of this name is served here") from None

    @classmethod
    def load(cls, settings: Settings, state: State) -> "Models":
        """Load and warm up every bundle of `settings.models_dir`.

        Raises:
            BundleError, ConfigurationError, DeviceError: a bundle, its secret or the device cannot be used.
        """
        device = choose_device(settings.device)
        hosted: dict[str, HostedModel] = {}
        for folder in bundles.discover(settings.models_dir):
            name = bundles.load_manifest(folder).name
            secret, public = state.model_secret(name, folder)
            if public:
                log.warning("model %s is a demo: its secret is public, so its weights are unprotected", name)
            if name in hosted:
                raise bundles.BundleError(f"two bundles of {settings.models_dir} are called {name}")
            hosted[name] = HostedModel(Predictor(folder, secret, device, state.deployment), settings)
            hosted[name].warm_up()
            log.info("model %s ready on %s", name, device)
        return cls(hosted)
