"""Three minutes of what `make soak` does for an hour: nothing grows, and the counters are what was answered."""

from pathlib import Path

import pytest

from tests.faults.processes import start, stop
from tests.faults.soak import Soak, check

MINUTES = 2.5


@pytest.mark.slow
def test_nothing_grows_and_everything_adds_up(tmp_path: Path, zoo: Path) -> None:
    server = start(tmp_path / "var", zoo)
    try:
        check(Soak(server, "tiny").run(MINUTES))
    finally:
        assert stop(server) == 0
