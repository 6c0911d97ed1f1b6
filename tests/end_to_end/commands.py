"""`sdb` as its user starts it, in a folder of its own."""

import signal
import subprocess
from pathlib import Path

from tests.conftest import SDB


def start(folder: Path, command: str, *more: str) -> subprocess.Popen[str]:
    """`sdb COMMAND MORE…` in `folder`, whose `var` is the state and whose `zoo` are the models.

    It has one thread: of two threads on one free core, beside other tests, each waits busily for the other, and a
    training of half a minute takes more than five.
    """
    own = {"SDB_STATE_DIR": str(folder / "var"), "SDB_MODELS_DIR": str(folder / "zoo"), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(  # noqa: S603 - ours
        [SDB, *command.split(), *more],
        cwd=folder,
        env=own,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str], *, seconds: float, status: int = 0) -> tuple[str, str]:
    """What it printed and its errors. One that is late is killed, to take nothing from the tests that follow."""
    try:
        printed, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    assert process.returncode == status, errors
    return printed, errors


def interrupted(process: subprocess.Popen[str]) -> str:
    """Its errors after Ctrl-C."""
    process.send_signal(signal.SIGINT)
    _, errors = ended(process, seconds=60, status=130)
    return errors
