"""Replicas of two kinds: ingresses, which are the application without its models, and models behind their queues.

An ingress admits, decodes and settles. What it has decoded goes to any replica of the model, where the images of all
ingresses become batches in the queue that a server of one process has too: whatever waits when the model is free is
the next batch. Ray's own `@serve.batch` waits for a timer instead, and counts requests, not images.
"""

import logging
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from PIL import Image
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import garbage, observability
from app.errors import Draining, ModelFailed, Overloaded
from app.hosting import Models, Rows, Vectors, Work, load_model
from app.main import create_app
from app.settings import Settings
from app.state import State
from keys.errors import ConfigurationError
from models import bundles
from models.bundles import Manifest
from models.data import Pixels, fit
from models.predictor import choose_devices

Handle = DeploymentHandle[Any]
Handles = Mapping[str, Handle]
ATTEMPTS = 3
log = logging.getLogger("sdb.replicas")


def shared_settings(given: Mapping[str, str]) -> Settings:
    """The settings of a replica: of this machine's environment, and what is `given` in its place.

    Raises:
        SettingsError: they cannot be read.
        ConfigurationError: they name no store that replicas can share, or leave a secret to be made by each of them.
    """
    settings = Settings.from_environment(given=given)
    if not settings.redis_url.get_secret_value():
        raise ConfigurationError("replicas share one store, and the embedded one has one owner: give redis_url_file")
    for name, secret in (("master_key", settings.master_key), ("token_keys", settings.token_keys)):
        if not secret.get_secret_value():
            raise ConfigurationError(f"replicas share one {name}, and would each make their own: give {name}_file")
    return settings


class Ingress:
    """What speaks HTTP: the application, its models elsewhere."""

    def __init__(self, given: Mapping[str, str], handles: Handles) -> None:
        self._settings, self._handles = shared_settings(given), handles
        observability.configure(self._settings.log_format)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Ray Serve calls this in the replica, and runs the lifespan of what it gets."""
        app = create_app(self._settings, partial(_elsewhere, self._handles))
        app.add_middleware(NamedByProxy)
        garbage.spare_what_is_built()
        return app


class NamedByProxy:
    """Ray Serve's proxy names requests, we take its name for ours, and it tells the caller: once is enough."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Leave the header out of the answer."""

        async def unnamed(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [pair for pair in message["headers"] if pair[0].lower() != b"x-request-id"]
            await send(message)

        await self._app(scope, receive, unnamed)


def _elsewhere(handles: Handles, settings: Settings, state: State) -> Models:
    del state  # the secrets of models are needed where the models are
    manifests = [
        bundles.load_manifest(folder, settings.bundle_signers) for folder in bundles.discover(settings.models_dir)
    ]
    return Models({manifest.name: ReplicatedModel(manifest, handles[manifest.name]) for manifest in manifests})


class ReplicatedModel:
    """A model that other processes run. Ray Serve starts another replica for one that ends; calls wait for it."""

    def __init__(self, manifest: Manifest, handle: Handle) -> None:
        self._manifest, self._handle, self.work = manifest, handle, Work()
        self._running = False

    @property
    def manifest(self) -> Manifest:
        """What the bundle says."""
        return self._manifest

    @property
    def running(self) -> bool:
        """Whether rows submitted now would be passed on."""
        return self._running

    @property
    def waiting(self) -> int:
        """None here: they wait where the replicas are."""
        return 0

    @property
    def runs_on(self) -> tuple[str, str]:
        """What a replica runs it on is the replica's choice."""
        return "replicas", "ray"

    async def start(self) -> None:
        """Return when a replica has loaded the model: before that, no request is sent to this ingress."""
        await self._handle.ready.remote()
        self._running = True

    async def close(self) -> None:
        """Say that no more are passed on."""
        self._running = False

    def fit(self, image: Image.Image) -> Pixels:
        """An RGB picture of any size → uint8 [H, W, 3] of the model's input size."""
        return fit(image, self._manifest.input.height, self._manifest.input.width)

    async def submit(self, rows: Rows) -> Vectors:
        """What the model says of the rows, in order.

        An answer is a function of its rows, so what a replica took with it when it died is asked of another one.

        Raises:
            Overloaded: the queues are full, or replica after replica is lost.
            ModelFailed: the model broke off, or its answer is not a number.
        """
        began = time.perf_counter_ns()
        for attempt in range(1, ATTEMPTS + 1):
            try:
                vectors: Vectors = await self._handle.answer.remote(rows)
                self.work.add(len(rows), time.perf_counter_ns() - began)  # a call counts as a pass
                return vectors
            except (BackPressureError, Overloaded):  # here, or there, whence it comes in a class of Ray's
                raise Overloaded("the replicas of the model are busy") from None
            except ModelFailed:  # the replica's traceback is the message of Ray's class, and nothing for callers
                raise ModelFailed("the model failed; the log of its replica says how") from None
            except (RayActorError, RayServeException, Draining) as error:
                log.warning("a replica of %s is lost (%s), try %d", self._manifest.name, type(error).__name__, attempt)
        raise Overloaded("no replica of the model stays")


class ModelReplica:
    """One model in a process of its own."""

    def __init__(self, given: Mapping[str, str], folder: str) -> None:
        settings = shared_settings(given)
        observability.configure(settings.log_format)
        devices = choose_devices(settings.device)  # Ray shows a replica the GPUs that are its own, and no other
        self._model = load_model(Path(folder), devices, settings, State(settings))
        self._started = False

    async def answer(self, rows: Rows) -> Vectors:
        """What the model says of the rows, in order.

        Raises:
            Overloaded, Draining: the rows have no place in the queue.
        """
        await self.ready()
        return await self._model.submit(rows)

    async def ready(self) -> None:
        """Return when calls are answered; the first begins with that, for a constructor has no event loop."""
        if not self._started:
            self._started = True
            await self._model.start()
            garbage.spare_what_is_built()

    async def check_health(self) -> None:
        """Ray Serve asks this, and replaces the replica if it raises."""
        if self._started and not self._model.running:
            raise RuntimeError("the queue of the model has stopped")
