"""The models of this server: each bundle with its predictors and its batcher.

The place where HTTP's world (items of a request) meets the models' (arrays of a batch).
"""

import logging
import queue
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from app.batching import Batcher
from app.errors import Overloaded, UnknownModel
from app.settings import Settings
from app.state import State
from models import bundles
from models.bundles import Manifest
from models.data import Pixels
from models.engines.choice import Wanted
from models.engines.cores import Cores, available
from models.predictor import Predictor, choose_devices

Logits = NDArray[np.float32]
log = logging.getLogger("sdb.models")


@dataclass(frozen=True)
class Rows:
    """Images of one request, uint8 [N, H, W, 3]: may their answers leave undisturbed, does the server unlock them."""

    pixels: Pixels
    keyed: bool
    unlocked: bool = False

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.pixels)

    def __getitem__(self, part: slice) -> "Rows":
        """Some of them, not copied."""
        return replace(self, pixels=self.pixels[part])


@dataclass
class Work:
    """What a model has done for callers: images, forward passes, the time they took, and the end of the last (Unix)."""

    images: int = 0
    passes: int = 0
    busy_ns: int = 0
    last_ms: int = 0


class Model(Protocol):
    """What a request needs of a model, wherever it runs."""

    work: Work

    @property
    def manifest(self) -> Manifest:
        """What the bundle says."""

    @property
    def running(self) -> bool:
        """Whether rows submitted now would be answered."""

    async def start(self) -> None:
        """Begin to answer."""

    async def close(self) -> None:
        """Answer what waits, refuse what comes."""

    def fit(self, image: Image.Image) -> Pixels:
        """An RGB picture of any size → uint8 [H, W, 3] of the model's input size."""

    async def submit(self, rows: Rows) -> Logits:
        """Logits float32 [N, K] of the rows, in order.

        Raises:
            Overloaded, Draining: the rows have no place in the queue.
        """


class HostedModel:
    """A model of this process behind its queue, with a replica on each of its devices."""

    def __init__(self, replicas: Sequence[Predictor], settings: Settings) -> None:
        self.replicas, self.work, self._counting = replicas, Work(), threading.Lock()
        self._free: queue.SimpleQueue[Predictor] = queue.SimpleQueue()
        turns = range(max(replica.at_once for replica in replicas))
        workers = [replica for turn in turns for replica in replicas if turn < replica.at_once]
        for replica in workers:  # one batch for each device before any gets its second
            self._free.put(replica)
        self.batcher: Batcher[Rows, Logits] = Batcher(
            self._answer,
            max_batch=settings.max_batch,
            wait_s=settings.batch_wait_ms / 1000,
            queue_limit=settings.queue_limit,
            workers=len(workers),
        )

    @property
    def manifest(self) -> Manifest:
        """What the bundle says."""
        return self.replicas[0].manifest

    @property
    def running(self) -> bool:
        """Whether rows submitted now would be answered."""
        return self.batcher.running

    async def start(self) -> None:
        """Begin to answer."""
        await self.batcher.start()

    async def close(self) -> None:
        """Answer what waits, refuse what comes."""
        await self.batcher.close()

    def fit(self, image: Image.Image) -> Pixels:
        """An RGB picture of any size → uint8 [H, W, 3] of the model's input size."""
        return self.replicas[0].fit(image)

    async def submit(self, rows: Rows) -> Logits:
        """Logits float32 [N, K] of the rows, in order.

        Raises:
            Overloaded, Draining: as `Batcher.submit`.
        """
        parts = await self.batcher.submit(rows)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _answer(self, parts: list[Rows]) -> Logits:
        began = time.perf_counter_ns()
        logits = self._predict(parts)
        with self._counting:  # workers come here at the same time
            self.work.images += len(logits)
            self.work.passes += 1
            self.work.busy_ns += time.perf_counter_ns() - began
            self.work.last_ms = time.time_ns() // 1_000_000
        return logits

    def _predict(self, parts: list[Rows]) -> Logits:
        pixels = parts[0].pixels if len(parts) == 1 else np.concatenate([rows.pixels for rows in parts])
        sizes = [len(rows) for rows in parts]
        keyed = np.repeat([rows.keyed for rows in parts], sizes)
        unlocked = np.repeat([rows.unlocked for rows in parts], sizes)
        replica = self._free.get()
        try:
            return replica(pixels, keyed, unlocked)
        except torch.OutOfMemoryError:
            raise Overloaded("the device is out of memory") from None
        finally:
            self._free.put(replica)

    def warm_up(self) -> None:
        """One batch of each size class, so that the first caller does not pay for allocations."""
        for size in (1, 8):
            blank = np.zeros((size, self.manifest.input.height, self.manifest.input.width, 3), np.uint8)
            right = np.arange(size) % 2 == 0
            for replica in self.replicas:
                replica(blank, right, right)


class Models:
    """All hosted models by name."""

    def __init__(self, hosted: Mapping[str, Model]) -> None:
        self._hosted = hosted

    def __iter__(self) -> Iterator[Model]:
        return iter(self._hosted.values())

    def __getitem__(self, name: str) -> Model:
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
        devices = choose_devices(settings.device)
        hosted: dict[str, Model] = {}
        for folder in bundles.discover(settings.models_dir):
            model = load_model(folder, devices, settings, state)
            if model.manifest.name in hosted:
                raise bundles.BundleError(f"two bundles of {settings.models_dir} are called {model.manifest.name}")
            hosted[model.manifest.name] = model
        return cls(hosted)


def load_model(folder: Path, devices: Sequence[torch.device], settings: Settings, state: State) -> HostedModel:
    """The model of one bundle, loaded and warm, on each of the devices.

    Raises:
        BundleError, ConfigurationError: the bundle or its secret cannot be used.
    """
    name = bundles.load_manifest(folder).name
    secret, public = state.model_secret(name, folder)
    if public:
        log.warning("model %s is a demo: its secret is public, so its weights are unprotected", name)
    wanted = engine_wanted(settings)
    torch.set_num_threads(wanted.cores.threads)  # of each of the threads that call torch
    replicas = [Predictor(folder, secret, device, state.deployment, wanted) for device in devices]
    model = HostedModel(replicas, settings)
    model.warm_up()
    for replica in replicas:
        log.info("model %s ready on %s, %s at once: %s", name, replica.device, replica.at_once, replica.choice)
    return model


def engine_wanted(settings: Settings) -> Wanted:
    """What the settings say about engines."""
    return Wanted(
        engine=settings.engine,
        cores=Cores.share(settings.cores or available()),
        most=settings.max_batch,
        memory=settings.state_dir / "engines",
    )
