"""Servers that are started otherwise than by `sdb serve` in a plain environment, and what becomes of a start."""

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx

from tests.conftest import ROOT, Server, free_port

STARTED_WITHIN_S = 300.0  # on a loaded machine
SDB = ROOT / ".venv" / "bin" / "sdb"


def spawn(
    state_dir: Path, models_dir: Path, settings: Mapping[str, str], command: Sequence[str] = (), **how: object
) -> Server:
    """Start a server and do not wait for it; what it says goes to a file beside its state folder, or as `how` says."""
    port = settings.get("SDB_PORT") or str(free_port())
    environment = {
        "PATH": os.defpath,
        "SDB_STATE_DIR": str(state_dir),
        "SDB_MODELS_DIR": str(models_dir),
        "SDB_PORT": port,
        "SDB_ENGINE": "eager",
        **settings,
    }
    with state_dir.with_suffix(".log").open("ab") as log:
        process = subprocess.Popen(  # noqa: S603 - ours
            [*(command or (str(SDB),)), "serve"], cwd=ROOT, env=environment, **{"stdout": log, "stderr": log, **how}
        )  # type: ignore[call-overload]
    return Server(process, f"http://127.0.0.1:{port}", state_dir)


def ready(server: Server, status: int = 200, within_s: float = STARTED_WITHIN_S) -> Server:
    """The server, when `/readyz` gives that status."""
    give_up = time.monotonic() + within_s
    while time.monotonic() < give_up:
        assert server.process.poll() is None, server.state_dir.with_suffix(".log").read_text()
        try:
            if httpx.get(f"{server.url}/readyz", timeout=10).status_code == status:
                return server
        except httpx.TransportError:
            time.sleep(0.1)
    server.process.kill()
    raise AssertionError(f"not {status} within {within_s} s")


def start(state_dir: Path, models_dir: Path, **settings: str) -> Server:
    """A server, when it is ready."""
    return ready(spawn(state_dir, models_dir, settings))


def stop(server: Server) -> int:
    """Its exit status after SIGTERM."""
    if server.process.poll() is None:
        server.process.terminate()
    return server.process.wait(60)
