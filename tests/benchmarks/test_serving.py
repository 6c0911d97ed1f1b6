"""The serving benchmark itself runs: this server and a FastAPI endpoint, one short round."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_quick_benchmark_measures_both_servers_without_an_error(tmp_path: Path) -> None:
    output = tmp_path / "serving.json"
    command = [sys.executable, "-m", "benchmarks.serving", "--quick", "--output", str(output)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603 - ours
    assert done.returncode == 0, done.stderr
    document = json.loads(output.read_text())
    assert document["about"]["errors"] == 0
    assert not document["skipped"], document["skipped"]
    loads = {(row["server"], row["load"]) for row in document["rows"] if row["per_second"][0] > 0}
    assert {("ours/one pass", load) for load in ("1", "32", "distill", "even", "bulk")} <= loads
    assert ("fastapi_naive", "32") in loads
    judged = {target["what"]: target["verdict"] for target in document["targets"]}
    assert judged["authorised tier against the public tier, throughput: ours/one pass"] in {"met", "missed"}
