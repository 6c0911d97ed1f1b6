"""What Prometheus' own tool says of our rules and of our metrics, where it is installed."""

import shutil
import subprocess

import httpx
import pytest

from tests.conftest import Api
from tests.deployment.queries import ALERTS

PROMTOOL = shutil.which("promtool") or ""
pytestmark = pytest.mark.skipif(not PROMTOOL, reason="promtool is not installed")


def check(what: str, *files: str, given: str = "") -> subprocess.CompletedProcess[str]:
    command = [PROMTOOL, "check", what, *files]
    return subprocess.run(command, input=given, text=True, capture_output=True, check=False)  # noqa: S603 - ours


def test_prometheus_takes_the_rules() -> None:
    checked = check("rules", str(ALERTS))
    assert checked.returncode == 0, checked.stderr


async def test_prometheus_finds_nothing_to_say_of_the_metrics(api: Api, photo: bytes) -> None:
    await api.client.post("/v1/models/tiny/predict", content=photo)
    metrics: httpx.Response = await api.client.get("/metrics")
    checked = check("metrics", given=metrics.text)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
