"""The extraction watch: what each caller sends is judged as it comes, and what follows when it is suspicious.

Knows callers, by the id of their key or by their network, and actions; what is suspicious is said in models/watch.py.
Of one process: another one has its own memory of the same callers (docs/extraction-watch.md says what that costs).
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from app.hosting import Rows, Vectors
from app.metrics.recorder import Metrics
from app.schemas import Parameters
from app.settings import Settings
from keys.addresses import network_of
from keys.errors import ConfigurationError, KeyServiceError, StoreUnavailable
from keys.records import Act, Caller, RateLimit
from keys.service import KeyService
from models import bundles
from models.bundles import Manifest
from models.engines.engine import Logits
from models.watch import Reference, Suspicion, WatchError, thumbnails

CALLERS = 10_000  # that are remembered, of each model together; the one unheard of for longest is forgotten
UNWRITTEN = 100  # alarms that may wait for the store; those of more addresses go to the log alone
ACTOR = "watch"
KEY, ADDRESS = "key", "address"
log = logging.getLogger("sdb.watch")


class Watch:
    """One per process, of its event loop; there is none while `SDB_WATCH` is `off`."""

    def __init__(
        self, settings: Settings, references: Mapping[str, Reference], keys: KeyService, metrics: Metrics
    ) -> None:
        self._action, self._references, self._keys, self._metrics = settings.watch, references, keys, metrics
        self._rate = RateLimit(name="watch", limit=settings.watch_per_minute, window_s=60)
        self._suspicions: OrderedDict[tuple[str, str], Suspicion] = OrderedDict()
        self._alarms: set[asyncio.Task[None]] = set()

    @classmethod
    def of(cls, settings: Settings, keys: KeyService, metrics: Metrics) -> "Watch | None":
        """The watch that the settings ask for, over all models that they name.

        Raises:
            ConfigurationError: a model has no reference, another model's, or one that its manifest does not vouch for.
            BundleError: a manifest cannot be read, or nobody who is trusted has signed it.
        """
        if settings.watch == "off":
            return None
        references = {}
        for folder in bundles.discover(settings.models_dir):
            manifest = bundles.load_manifest(folder, settings.bundle_signers)
            try:
                found = Reference.load(folder, manifest)
            except WatchError as error:
                raise ConfigurationError(f"SDB_WATCH={settings.watch}: {error}") from error
            references[manifest.name] = found
        return cls(settings, references, keys, metrics)

    async def met(self, caller: Caller, model: str, images: int) -> Caller:
        """The caller with the rights that are left to it, before it is admitted.

        Raises:
            RateLimited: it is suspected, and has sent enough for this minute.
        """
        if not self._suspected(caller, model):
            return caller
        if self._limited(caller):
            try:
                await self._keys.pass_window(f"{ACTOR}:{_name(caller)}", self._rate, images)
            except StoreUnavailable:
                return caller  # public predictions go on; whoever has a key is refused by the admission
        if self._action == "coarsen":
            return replace(caller, proof=replace(caller.proof, scopes=caller.scopes - {"distill"}))
        return caller

    def _limited(self, caller: Caller) -> bool:
        """Whether a suspect is slowed down; an address cannot be suspended, only that."""
        return self._action == "throttle" or (self._action == "suspend" and caller.key is None)

    def saw(self, caller: Caller, manifest: Manifest, parameters: Parameters, rows: Rows, vectors: Vectors) -> Logits:
        """Judge the images of a request, not the views that the server made of them; give the logits that may leave.

        Of a locked model's guesses at images that are not transformed, it learns nothing.
        """
        guess = manifest.lock is not None and not rows.unlocked and parameters.encryption != "lock"
        if vectors.certainty is None or guess:
            return vectors.logits
        images = slice(None, None, parameters.views)
        suspicion = self._suspicion(_name(caller), manifest.name)
        top1, shown = vectors.logits[images].argmax(1), thumbnails(rows.pixels[images])
        if suspicion.add(self._references[manifest.name], vectors.certainty[images], top1, shown):
            self._raise(caller, manifest.name, suspicion)
        coarse = suspicion.suspected and self._action == "coarsen" and not caller.may("distill", manifest.name)
        levels = manifest.guard.confidences
        return coarsened(vectors.logits, min(levels)) if coarse and len(levels) > 1 else vectors.logits

    def _suspected(self, caller: Caller, model: str) -> bool:
        suspicion = self._suspicions.get((_name(caller), model))
        return suspicion is not None and suspicion.suspected

    def _suspicion(self, caller: str, model: str) -> Suspicion:
        suspicion = self._suspicions.setdefault((caller, model), Suspicion())
        self._suspicions.move_to_end((caller, model))
        if len(self._suspicions) > CALLERS:
            self._suspicions.popitem(last=False)
        return suspicion

    def _raise(self, caller: Caller, model: str, suspicion: Suspicion) -> None:
        """The alarm: counted, logged, and written into the audit log beside the answer, which does not wait for it."""
        action = "throttle" if self._limited(caller) else self._action
        self._metrics.alarm(model, ADDRESS if caller.key is None else KEY, action)
        log.warning("a caller's images are not those of a customer of %s: %s", model, action)
        if caller.key is None and len(self._alarms) >= UNWRITTEN:
            log.error("too many alarms at once: this one is not in the audit log")
            return
        task = asyncio.get_running_loop().create_task(self._write(caller, model, action, suspicion))
        self._alarms.add(task)
        task.add_done_callback(self._alarms.discard)

    async def _write(self, caller: Caller, model: str, action: str, suspicion: Suspicion) -> None:
        name, origin = _name(caller), caller.origin
        act = Act(ACTOR, origin.request_id, origin.address)
        try:
            await self._keys.alarmed(name, act, {"model": model, "action": action, "images": suspicion.images})
            if action == "suspend" and caller.key is not None:
                await self._keys.lifecycle.disable(caller.key.id, act)
        except KeyServiceError as error:
            log.error("an alarm of the watch cannot be written: %s", error)
            if caller.key is not None:
                suspicion.suspected = False  # with the store back, its next image raises the alarm again

    async def close(self) -> None:
        """Return when all alarms are written."""
        await asyncio.gather(*self._alarms)


def coarsened(logits: Logits, confidence: float) -> Logits:
    """Public logits [N, K] with one probability of the top-1, however sure the network was; the others stay."""
    rows, top = np.arange(len(logits)), logits.argmax(1)
    others = logits.copy()
    others[rows, top] = -np.inf
    highest = others.max(1)
    total = highest + np.log(np.exp(others - highest[:, None]).sum(1))
    others[rows, top] = total + np.log(confidence / (1 - confidence))
    return others


def _name(caller: Caller) -> str:
    """Under which a caller is remembered: its key, or the network of its address."""
    return network_of(caller.origin.address) if caller.key is None else caller.key.id
