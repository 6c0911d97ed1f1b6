"""What of a server is measured beside its requests: where each gauge of `/metrics` is read.

Knows the server's parts and the metrics' names; counts nothing itself.
"""

import platform

import torch

from app.batching import DIED, HANGS
from app.hosting import Model
from app.journal import Journal
from app.metrics import families
from app.metrics.recorder import Metrics
from app.pipeline import Services

CALLERS, ACTIONS = ("key", "address"), ("alarm", "throttle", "coarsen", "suspend")
STORE_FAILURES = ("ConnectionError", "TimeoutError")
THREADS = (HANGS, DIED)


def measure(services: Services, journal: Journal, version: str) -> None:
    """From now on `services.metrics` knows how the server is; `version` is its own."""
    metrics, decoders = services.metrics, services.decoders
    build = version, platform.python_version(), str(torch.__version__)
    metrics.sample(families.BUILD_INFO, build, lambda: 1.0)
    metrics.sample(families.IN_FLIGHT, (), lambda: journal.open)
    metrics.sample(families.DRAINING, (), services.stopping.is_set)
    metrics.sample(families.DECODING, (), lambda: decoders.statistics().tasks_waiting)
    for kind in STORE_FAILURES:
        metrics.declare(families.STORE_ERRORS, (kind,))
    for model in services.models:
        _measure(metrics, model, services.settings.queue_limit)
    journal.readers.append(metrics.answered)


def _measure(metrics: Metrics, model: Model, queue_limit: int) -> None:
    manifest = model.manifest
    name = manifest.name
    metrics.sample(families.MODEL_INFO, (name, manifest.version, manifest.architecture, *model.runs_on), lambda: 1.0)
    metrics.sample(families.MODEL_READY, (name,), lambda: model.running)
    metrics.sample(families.QUEUE, (name,), lambda: model.waiting)
    metrics.sample(families.QUEUE_LIMIT, (name,), lambda: queue_limit)
    model.work.told, model.work.lost = metrics.batches(name), metrics.threads_lost(name)
    for reason in THREADS:
        metrics.declare(families.THREADS_LOST, (name, reason))
    for caller in CALLERS:
        for action in ACTIONS:
            metrics.declare(families.WATCH_ALARMS, (name, caller, action))
