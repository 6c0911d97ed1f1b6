"""What is measured: every metric of `/metrics` by name, help, labels and buckets.

Labels have few values: templates of routes, names of hosted models, codes of refusals. Never the id of a key, an
address, or anything else that a caller chooses.
"""

from dataclasses import dataclass
from typing import Literal, get_args

FAST_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SLOW_S = (*FAST_S[3:], 30.0)
Replaces = Literal["ended", "hung", "renewed"]
"""What became of a process whose place another takes; `renewed` is who was asked to leave."""
REPLACES: tuple[Replaces, ...] = get_args(Replaces)
IMAGES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)


@dataclass(frozen=True)
class Family:
    """A metric; with buckets (upper bounds, ascending) a histogram.

    `over_workers` is what becomes of the numbers of several processes; `each` keeps them apart, by a label `worker`.
    """

    name: str
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    over_workers: Literal["sum", "max", "min", "each"] = "sum"

    @property
    def kind(self) -> Literal["counter", "gauge", "histogram"]:
        """By Prometheus' conventions."""
        if self.buckets:
            return "histogram"
        return "counter" if self.name.endswith("_total") else "gauge"

    @property
    def width(self) -> int:
        """How many numbers it takes: one; or one per bucket, one for what is above all of them, and the sum."""
        return len(self.buckets) + 2 if self.buckets else 1


REQUESTS = Family(
    "sdb_requests_total",
    "Requests by route, by what a prediction's caller may see, and by how it ended: `ok`, a refusal's code, or `left`.",
    ("route", "tier", "outcome"),
)
REQUEST_SECONDS = Family("sdb_request_seconds", "From a request's head to its answer's end.", ("route",), SLOW_S)
DENIED = Family("sdb_denied_total", "Requests that were refused, by the code of the refusal.", ("reason",))
STAGE_SECONDS = Family("sdb_stage_seconds", "Each step of a prediction.", ("stage",), FAST_S)
IMAGES_ANSWERED = Family("sdb_images_total", "Images, and views of images, answered.", ("model", "tier"))
IMAGES_CHARGED = Family("sdb_images_charged_total", "Of those, what was charged to a budget.", ("model",))
PASS_SECONDS = Family("sdb_batch_seconds", "The time that a model takes for a batch.", ("model",), FAST_S)
PASS_IMAGES = Family("sdb_batch_images", "Images in a batch.", ("model",), IMAGES)
QUEUE = Family("sdb_queue_images", "Images that wait for the model.", ("model",))
QUEUE_LIMIT = Family("sdb_queue_limit_images", "How many may wait; more are refused as `overloaded`.", ("model",))
DECODING = Family("sdb_decode_queue_requests", "Requests that wait for a thread to decode their images.")
MODEL_READY = Family("sdb_model_ready", "Whether the model would answer: 1 or 0.", ("model",), (), "min")
MODEL_INFO = Family(
    "sdb_model_info", "1, for each hosted model.", ("model", "version", "architecture", "engine", "device"), (), "max"
)
IN_FLIGHT = Family("sdb_requests_in_flight", "Requests that are being answered.")
DRAINING = Family("sdb_draining", "1 while the server answers what it has begun and takes nothing new.", (), (), "max")
STORE_SECONDS = Family("sdb_store_seconds", "Round trips to the key store, attempts to connect included.", (), FAST_S)
STORE_ERRORS = Family("sdb_store_errors_total", "Of those, what failed, by the kind of error.", ("error",))
WATCH_ALARMS = Family(
    "sdb_watch_alarms_total", "Callers who looked as if they extract a model.", ("model", "caller", "action")
)
LOOP_LAG = Family("sdb_event_loop_lag_seconds", "By how much a one-second timer was late.", (), FAST_S)
BUILD_INFO = Family("sdb_build_info", "1, for this build.", ("version", "python", "torch"), (), "max")
WORKER_STARTS = Family("sdb_worker_starts_total", "How often the process was started.", over_workers="each")
WORKERS_REPLACED = Family(
    "sdb_workers_replaced_total",
    "Processes that took the place of one that `ended`, `hung`, or was `renewed`.",
    ("reason",),
)
THREADS_LOST = Family(
    "sdb_model_threads_lost_total",
    "Threads of a model that were given up: one `hangs`, or has `died`.",
    ("model", "reason"),
)
HEARTBEAT = Family("sdb_worker_heartbeat_timestamp_seconds", "When its event loop last turned.", over_workers="each")
PROCESS = tuple(
    Family(name, text, over_workers="each")
    for name, text in {
        "process_cpu_seconds_total": "Processor time, user and system.",
        "process_resident_memory_bytes": "Resident memory.",
        "process_virtual_memory_bytes": "Virtual memory.",
        "process_open_fds": "Open file descriptors.",
        "process_max_fds": "How many there may be.",
        "process_start_time_seconds": "When the process was started.",
    }.items()
)
FAMILIES = (
    *(REQUESTS, REQUEST_SECONDS, DENIED, STAGE_SECONDS, IMAGES_ANSWERED, IMAGES_CHARGED, IN_FLIGHT, DRAINING),
    *(PASS_SECONDS, PASS_IMAGES, QUEUE, QUEUE_LIMIT, DECODING, MODEL_READY, MODEL_INFO, THREADS_LOST, WATCH_ALARMS),
    *(STORE_SECONDS, STORE_ERRORS, LOOP_LAG, BUILD_INFO, WORKER_STARTS, WORKERS_REPLACED, HEARTBEAT, *PROCESS),
)
GAUGES = {family.name for family in FAMILIES if family.kind == "gauge"}
