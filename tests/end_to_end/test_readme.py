"""The README's requests work as pasted, in the order they stand there."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from app.settings import ZOO
from tests.conftest import ROOT, Server, serving


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """`make serve` of a clean clone, but for the port."""
    with serving(tmp_path / "var", ZOO) as running:
        yield running


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_first_requests_work_as_pasted(server: Server, tmp_path: Path) -> None:
    section = (ROOT / "README.md").read_text().partition("## First request")[2]
    found = re.search(r"```sh\n(.*?)```", section, re.DOTALL)
    assert found
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    script = found[1].replace("http://127.0.0.1:8000", server.url).replace("\ncurl", "\necho; curl")
    done = subprocess.run(["bash", "-euc", script], cwd=tmp_path, capture_output=True, text=True, check=True)  # noqa: S607, S603
    public, distill, own = (orjson.loads(line) for line in done.stdout.splitlines() if line.startswith("{"))
    assert public["tier"] == "public"
    assert distill["tier"] == "distill"
    assert public["predictions"][0]["label"] == distill["predictions"][0]["label"] == "ship"
    assert public["predictions"][0]["logits"] != distill["predictions"][0]["logits"]
    assert own["budget"] == {"limit": 100, "remaining": 99, "granted": 0, "refill": "none", "resets_at": None}
