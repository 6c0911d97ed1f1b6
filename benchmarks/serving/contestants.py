"""Who takes part: this product in its variants, and the peers; how each is started and asked.

Two model workers of one thread each wherever a server can be told so: on two cores that beats one of two threads.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.serving import product
from benchmarks.serving.doors import FORM, RAW, V2, Door, ours
from benchmarks.serving.environments import PEERS, interpreter, versions
from benchmarks.serving.workloads import Workload

Kind = Literal["ours", "peer"]
PACKAGES = ("litserve", "bentoml", "ray", "mlserver", "fastapi", "starlette", "uvicorn", "uvloop", "pillow", "numpy")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
UVICORN = ("--workers", "2", "--loop", "uvloop", "--http", "httptools", "--no-access-log")
PATIENT = ("--timeout-worker-healthcheck", "60")  # a worker may take longer than its 5 s to import torch
QUIET = {"BENTOML_DO_NOT_TRACK": "True", "RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}


@dataclass(frozen=True)
class Contestant:
    """One server: `name` in tables, and what of a workload it serves (`variant`, for this product)."""

    name: str
    kind: Kind
    door: Door | None = None
    variant: str = ""
    guarded: bool = True
    processes: int = 1

    def command(self, port: int) -> tuple[str, ...]:
        """How it is started.

        Raises:
            NotInstallable: its packages cannot be had here.
        """
        if self.kind == "ours":
            return product.SDB if self.guarded else product.BARE
        python = str(interpreter(self.name))
        if self.name.startswith("fastapi"):
            return (
                python,
                "-m",
                "uvicorn",
                f"benchmarks.peers.{self.name}.server:app",
                "--port",
                str(port),
                *UVICORN,
                *PATIENT,
            )
        return (python, str(PEERS / self.name / "server.py"), str(port))

    def environ(self, workload: Workload, state: Path, port: int) -> dict[str, str]:
        """Its environment; `state` is a folder of its own that stays over rounds."""
        if self.kind == "ours":
            told = product.environ(state, workload.models_dir(self.variant), port)
            return told | {"SDB_WORKERS": str(self.processes)}
        return {"PYTHONPATH": str(product.ROOT), "HOME": str(state.parent), **ONE_THREAD, **QUIET}

    def door_of(self, workload: Workload) -> Door:
        """How it is asked."""
        return self.door or ours(workload.model)

    def serves(self, workload: Workload) -> bool:
        """Whether it takes part in this workload."""
        if self.kind == "ours":
            return self.variant in workload.variants and (self.guarded or workload.name == "small")
        return workload.name != "wide" or self.name.startswith("fastapi")

    @property
    def reference(self) -> str:
        """The ceiling whose answers are the right ones for it: those of the bare network are the peers' own."""
        return f"ours/{self.variant}" if self.kind == "ours" and self.guarded else "peer"

    def versions(self) -> dict[str, str]:
        """What it runs with."""
        return versions(self.name, PACKAGES)


OURS = (
    Contestant("ours/shipped", "ours", variant="shipped"),
    Contestant("ours/one pass", "ours", variant="one pass"),
    Contestant("ours/two processes", "ours", variant="one pass", processes=2),
    Contestant("ours/no guard", "ours", variant="one pass", guarded=False),
)
PEER_DOORS: Mapping[str, Door] = {
    "fastapi_naive": RAW,
    "fastapi_batch": RAW,
    "litserve": RAW,
    "bentoml": FORM,
    "mlserver": V2,
    "ray": RAW,
}
ALL = (*OURS, *(Contestant(name, "peer", door) for name, door in PEER_DOORS.items()))
REFERENCES = {contestant.name: contestant.reference for contestant in ALL}
