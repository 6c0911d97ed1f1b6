"""The OpenAPI document is good enough for a client in another language: generated, compiled strictly, and run."""

import json
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.conftest import CLASSES, Server

PROJECT = Path(__file__).parent / "typescript"
NEEDED = ("node", "npm")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(any(shutil.which(tool) is None for tool in NEEDED), reason="node and npm are not installed"),
]


def run(*command: str, place: Path) -> str:
    """Its output, or a failure that shows it."""
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)  # noqa: S603
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def test_a_generated_typescript_client_compiles_predicts_and_reads_a_refusal(
    server: Server, tmp_path: Path, photo: bytes
) -> None:
    project, picture = tmp_path / "project", tmp_path / "photo.png"
    shutil.copytree(PROJECT, project, ignore=shutil.ignore_patterns("node_modules", "generated", "built"))
    picture.write_bytes(photo)
    (project / "openapi.json").write_bytes(httpx.get(f"{server.url}/openapi.json").content)
    grant = {"name": "partner", "scopes": ["distill"], "budget": {"limit": 10}}
    key = httpx.post(f"{server.url}/admin/v1/keys", json=grant, headers=server.admin).json()

    run("npm", "ci", "--no-audit", "--no-fund", place=project)
    run("node_modules/.bin/openapi-ts", "-i", "openapi.json", "-o", "generated", place=project)
    run("node_modules/.bin/tsc", "-p", ".", place=project)
    told = json.loads(run("node", "built/predict.js", server.url, key["api_key"], str(picture), place=project))

    (label,) = set(told["labels"])
    assert label in CLASSES, "JSON, raw bytes and a form are answered alike"
    assert set(told["tiers"]) == {"distill"}
    assert (told["logits"], told["remaining"]) == (len(CLASSES), 7)
    assert told["problem"] == [401, "invalid-credential", 32]
