"""The example of docs/distilling.md is the guide's, and its notebook runs; the guide itself is run by tests/docs."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.settings import ZOO
from models.bundles import load_manifest
from tests.client.partners import Partner, partner
from tests.conftest import ROOT, Server, encode, serving, smooth_images

GUIDE, EXAMPLES = (ROOT / "docs" / "distilling.md").read_text(), ROOT / "client" / "examples"
TRAINING = 40
EXECUTE = """
import sys, nbformat
from nbclient import NotebookClient
book = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(book, timeout=100).execute()
nbformat.write(book, "executed.ipynb")
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("guide") / "var", ZOO) as running:
        yield running


@pytest.fixture
def holder(server: Server) -> Iterator[Partner]:
    with partner(server) as someone:
        yield someone


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a few images of each class, as the guide describes it."""
    for split, count in (("train", TRAINING), ("test", 20)):
        pixels = smooth_images(count, seed=len(split)).permute(0, 2, 3, 1).numpy()
        for number, image in enumerate(pixels):
            folder = tmp_path / "images" / split / load_manifest(ZOO / "cifar10").classes[number % 10]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number}.png").write_bytes(encode(image))
    return tmp_path


def run(holder: Partner, place: Path, *command: str) -> str:
    environment = {"SDB_API_KEY": holder.key["api_key"], "SDB_BASE_URL": holder.server.url, "OMP_NUM_THREADS": "1"}
    environment |= {"HOME": str(place), "PATH": os.defpath}
    done = subprocess.run(  # noqa: S603 - ours
        [sys.executable, *command], cwd=place, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_ten_lines_are_the_guides() -> None:
    script = (EXAMPLES / "distill_ten_lines.py").read_text()
    found = re.search(r"## In ten lines.*?```python\n(.*?)```", GUIDE, re.DOTALL)
    assert found
    assert script.partition('"""\n\n')[2] == found[1]
    statements = [line for line in found[1].splitlines() if line and "import" not in line]
    assert len(statements) <= 10


@pytest.mark.slow
def test_the_notebook_runs(holder: Partner, place: Path) -> None:
    run(holder, place, "-c", EXECUTE, str(EXAMPLES / "distill.ipynb"))
    executed = (place / "executed.ipynb").read_text()
    assert f"{TRAINING} soft labels in the cache" in executed
    assert "distilled: " in executed
    assert "<h1>Distillation</h1>" in executed
    assert holder.charged == TRAINING
    assert holder.key["api_key"] not in executed


def test_the_notebook_is_stored_without_output() -> None:
    book = json.loads((EXAMPLES / "distill.ipynb").read_text())
    assert not any(cell.get("outputs") for cell in book["cells"])
