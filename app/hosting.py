"""The models of this server: each bundle with its predictors and its batcher.

The place where HTTP's world (items of a request) meets the models' (arrays of a batch).
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image

from app.batching import Batcher
from app.errors import ModelFailed, Overloaded, UnknownModel
from app.settings import Settings
from app.state import State
from models import bundles
from models.bundles import Manifest
from models.data import Pixels
from models.engines.choice import Wanted
from models.engines.cores import Cores, available
from models.engines.engine import Logits
from models.predictor import Predictor, choose_devices
from models.watch import Certainty

NO_MEMORY = ("allocate memory", "not enough memory", "bad allocation")  # torch on a CPU, engines in C++

log = logging.getLogger("sdb.models")


@dataclass(frozen=True)
class Rows:
    """Images of one request, uint8 [N, H, W, 3]: may their answers leave undisturbed, does the server unlock them.

    `ran` hears when each batch with some of them began (`time.perf_counter_ns()`), if that is in this process.
    """

    pixels: Pixels
    keyed: bool
    unlocked: bool = False
    ran: list[int] = field(default_factory=list, repr=False, compare=False)

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.pixels)

    def __getitem__(self, part: slice) -> "Rows":
        """Some of them, not copied."""
        return replace(self, pixels=self.pixels[part])


@dataclass(frozen=True)
class Vectors:
    """What a model says of images: logits float32 [N, K] as they may leave.

    Beside them, where callers are watched, how sure the network was of each before the release stage: log-odds float32
    [N], which may not leave (models/watch.py).
    """

    logits: Logits
    certainty: Certainty | None = None

    def __len__(self) -> int:
        """Of how many images."""
        return len(self.logits)

    def __getitem__(self, part: slice) -> "Vectors":
        """What it says of some of them, not copied."""
        return Vectors(self.logits[part], None if self.certainty is None else self.certainty[part])

    @classmethod
    def joined(cls, parts: Sequence["Vectors"]) -> "Vectors":
        """All of the parts, in order, as one."""
        if len(parts) == 1:
            return parts[0]
        certainties = [part.certainty for part in parts if part.certainty is not None]
        return cls(
            np.concatenate([part.logits for part in parts]), np.concatenate(certainties) if certainties else None
        )


@dataclass
class Work:
    """What a model has done for callers: images, forward passes, the time they took, and the end of the last (Unix)."""

    images: int = 0
    passes: int = 0
    busy_ns: int = 0
    last_ms: int = 0
    told: Callable[[int, float], None] | None = None
    """Hears of each pass how many images it had and how many seconds it took."""
    lost: Callable[[str], None] | None = None
    """Hears of each thread that was given up what became of it (app/batching.py)."""

    def add(self, images: int, took_ns: int) -> None:
        """A pass is done; called by one thread at a time."""
        self.images += images
        self.passes += 1
        self.busy_ns += took_ns
        self.last_ms = time.time_ns() // 1_000_000
        if self.told is not None:
            self.told(images, took_ns / 1e9)


class Model(Protocol):
    """What a request needs of a model, wherever it runs."""

    work: Work

    @property
    def manifest(self) -> Manifest:
        """What the bundle says."""

    @property
    def running(self) -> bool:
        """Whether rows submitted now would be answered."""

    @property
    def waiting(self) -> int:
        """How many rows wait for their turn, as far as this process knows."""

    @property
    def runs_on(self) -> tuple[str, str]:
        """The engine and the devices, by their names."""

    async def start(self) -> None:
        """Begin to answer."""

    async def close(self) -> None:
        """Answer what waits, refuse what comes."""

    def fit(self, image: Image.Image) -> Pixels:
        """An RGB picture of any size → uint8 [H, W, 3] of the model's input size."""

    async def submit(self, rows: Rows) -> Vectors:
        """What the model says of the rows, in order.

        Raises:
            Overloaded, Draining: the rows have no place in the queue.
        """


class HostedModel:
    """A model of this process behind its queue, with a replica on each of its devices."""

    def __init__(self, replicas: Sequence[Predictor], settings: Settings) -> None:
        self.replicas, self.work, self._counting = replicas, Work(), threading.Lock()
        self._watched = settings.watch != "off"
        self._busy = [0] * len(replicas)  # batches of each, a batch that hangs among them
        self.batcher: Batcher[Rows, Vectors] = Batcher(
            self._answer,
            max_batch=settings.max_batch,
            wait_s=settings.batch_wait_ms / 1000,
            queue_limit=settings.queue_limit,
            workers=sum(replica.at_once for replica in replicas),
            limit_s=settings.model_timeout_s,
            lost=self._lost,
        )

    @property
    def manifest(self) -> Manifest:
        """What the bundle says."""
        return self.replicas[0].manifest

    @property
    def running(self) -> bool:
        """Whether rows submitted now would be answered."""
        return self.batcher.running

    @property
    def waiting(self) -> int:
        """How many rows wait for their turn."""
        return self.batcher.waiting

    @property
    def runs_on(self) -> tuple[str, str]:
        """The engine and the devices, by their names."""
        return self.replicas[0].choice.engine.name, ",".join(str(replica.device) for replica in self.replicas)

    async def start(self) -> None:
        """Begin to answer."""
        await self.batcher.start()

    async def close(self) -> None:
        """Answer what waits, refuse what comes."""
        await self.batcher.close()

    def fit(self, image: Image.Image) -> Pixels:
        """An RGB picture of any size → uint8 [H, W, 3] of the model's input size."""
        return self.replicas[0].fit(image)

    async def submit(self, rows: Rows) -> Vectors:
        """What the model says of the rows, in order.

        Raises:
            Overloaded, Draining: as `Batcher.submit`.
            ModelFailed: the model broke off, or said of one of them what is not a number.
        """
        vectors = Vectors.joined(await self.batcher.submit(rows))
        if not np.isfinite(vectors.logits).all():  # of these rows alone: others of the batch are answered
            log.error("model %s: not all of %d answers are finite; none of them leaves", self.manifest.name, len(rows))
            raise ModelFailed("the model's answer is not a number")
        return vectors

    def _lost(self, reason: str) -> None:
        if self.work.lost is not None:
            self.work.lost(reason)

    def _answer(self, parts: list[Rows]) -> Vectors:
        began = time.perf_counter_ns()
        for rows in parts:
            rows.ran.append(began)
        vectors = self._predict(parts)
        with self._counting:  # workers come here at the same time
            self.work.add(len(vectors), time.perf_counter_ns() - began)
        return vectors

    def _predict(self, parts: list[Rows]) -> Vectors:
        pixels = parts[0].pixels if len(parts) == 1 else np.concatenate([rows.pixels for rows in parts])
        sizes = [len(rows) for rows in parts]
        keyed = np.repeat([rows.keyed for rows in parts], sizes)
        unlocked = np.repeat([rows.unlocked for rows in parts], sizes)
        with self._least_busy() as replica, self._told(len(pixels)):
            if not self._watched:
                return Vectors(replica(pixels, keyed, unlocked))
            return Vectors(*replica.watched(pixels, keyed, unlocked))

    @contextmanager
    def _least_busy(self) -> Iterator[Predictor]:
        """The replica with the most room; none has more batches than it takes, for there are as many workers."""
        with self._counting:
            load = [busy / replica.at_once for busy, replica in zip(self._busy, self.replicas, strict=True)]
            chosen = load.index(min(load))
            self._busy[chosen] += 1
        try:
            yield self.replicas[chosen]
        finally:
            with self._counting:
                self._busy[chosen] -= 1

    @contextmanager
    def _told(self, images: int) -> Iterator[None]:
        """What fails here is logged once for a batch, and is no more than a code to its callers."""
        try:
            yield
        except Exception as error:
            name = self.manifest.name
            if _no_memory(error):
                log.warning("model %s: no memory for a batch of %d", name, images)
                raise Overloaded("the device is out of memory") from None
            log.exception("model %s failed on a batch of %d", name, images)
            raise ModelFailed("the model failed; the server's log says how") from None

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


def _no_memory(error: Exception) -> bool:
    """Whether a device, or the machine, is out of memory: on a CPU, torch and the engines say so in words alone."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY)


def load_model(folder: Path, devices: Sequence[torch.device], settings: Settings, state: State) -> HostedModel:
    """The model of one bundle, loaded and warm, on each of the devices.

    Raises:
        BundleError, ConfigurationError: the bundle or its secret cannot be used.
    """
    manifest = bundles.load_manifest(folder, settings.bundle_signers)
    name = manifest.name
    secret, public = state.model_secret(name, folder)
    if public:
        log.warning("model %s is a demo: its secret is public, so its weights are unprotected", name)
    wanted = engine_wanted(settings)
    torch.set_num_threads(wanted.cores.threads)  # of each of the threads that call torch
    replicas = [Predictor(folder, secret, device, state.deployment, wanted) for device in devices]
    if any(replica.manifest != manifest for replica in replicas):
        raise bundles.BundleError(f"{folder} was changed while it was loaded")
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
        watched=settings.watch != "off",
    )
