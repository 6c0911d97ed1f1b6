"""A server under test is ended with everything that it has started, and weighed with it."""

import shutil
import sys
from pathlib import Path

import pytest

from benchmarks.serving.pictures import jpegs
from benchmarks.serving.processes import NotStarted, running, wait_until
from tests.conftest import until

DETACHED = "import subprocess, time; subprocess.Popen(['sleep', '60'], start_new_session=True); time.sleep(60)"


def _sleepers(mark: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark.encode() in path.read_bytes():
                found.append(path.parent.name)
        except OSError:
            continue
    return found


@pytest.mark.skipif(shutil.which("sleep") is None, reason="no `sleep` here")
def test_a_process_that_detached_itself_is_weighed_and_ended_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.serving.processes.ORPHANS_S", 0.2)  # this one would not end by itself
    with running([sys.executable, "-c", DETACHED], 1, tmp_path, {}, tmp_path / "log") as process:
        until(lambda: process.memory().processes == 2)
        assert process.memory().resident > process.memory().proportional > 0
    until(lambda: not _sleepers(process.mark), what="what was killed is gone when its new parent has noticed")


def test_a_server_that_ends_is_reported_with_its_log(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "print('no such model'); raise SystemExit(3)"]
    with (
        pytest.raises(NotStarted, match=r"ended with 3\n(?s:.*)no such model"),
        running(command, 1, tmp_path, {}, tmp_path / "log") as process,
    ):
        wait_until(process, lambda: False)


def test_pictures_differ_from_each_other_and_not_from_run_to_run() -> None:
    assert jpegs(4, 32) == jpegs(4, 32)
    assert len(set(jpegs(4, 32))) == 4
