"""The code in docs/encryption.md works as pasted, against a server that runs."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app.settings import ZOO
from tests.conftest import ROOT, Server, free_port, start_server

DOCUMENTED = "http://127.0.0.1:8000"
GUIDE = (ROOT / "docs" / "encryption.md").read_text()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like a clone in which `make serve` runs."""
    folder = tmp_path_factory.mktemp("clone")
    (folder / "docs").symlink_to(ROOT / "docs")
    return folder


@pytest.fixture(scope="module")
def server(place: Path) -> Iterator[Server]:
    running = start_server(place / "var", ZOO, free_port())
    yield running
    running.process.terminate()
    running.process.wait()


def block(section: str, language: str, server: Server) -> str:
    """The first code of a section, with this server's address."""
    found = re.search(rf"```{language}\n(.*?)```", GUIDE.partition(f"## {section}")[2], re.DOTALL)
    assert found
    return found[1].replace(DOCUMENTED, server.url)


def run(code: str, place: Path) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=place, capture_output=True, text=True, check=True)  # noqa: S603
    return done.stdout.strip()


def issue(server: Server, image_key: dict[str, object], path: Path) -> None:
    body = {"name": "clinic", "scopes": ["predict", "decrypt"], "image_key": image_key}
    answer = httpx.post(f"{server.url}/admin/v1/keys", json=body, headers=server.admin)
    assert answer.status_code == 201, answer.text
    path.write_bytes(answer.content)


def test_a_sealed_image_is_predicted_as_pasted(server: Server, place: Path) -> None:
    issue(server, {"scheme": "sealed"}, place / "var" / "clinic.json")
    assert run(block("`sealed`", "python", server), place) == "ship"


@pytest.mark.parametrize("transform", ["shf", "np"])
def test_a_pixel_image_is_predicted_as_pasted(server: Server, place: Path, transform: str) -> None:
    issue(server, {"scheme": "pixel", "transform": transform, "block": 4}, place / "var" / "pixel.json")
    assert run(block("`pixel`", "python", server), place) == "ship"


def test_the_documented_request_issues_an_image_key(server: Server) -> None:
    found = re.search(r"-d '(.*?)'", block("Getting an image key", "sh", server), re.DOTALL)
    assert found
    headers = {**server.admin, "Content-Type": "application/json"}
    answer = httpx.post(f"{server.url}/admin/v1/keys", content=found[1], headers=headers)
    assert answer.status_code == 201, answer.text
    assert set(answer.json()["image_key"]) >= {"kid", "scheme", "secret"}
