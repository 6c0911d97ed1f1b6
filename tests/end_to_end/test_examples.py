"""The examples of the client library, and every block of its guide, print what the guide says that they print."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from sdb_client import Client

from app.settings import ZOO
from tests.conftest import ROOT, Server, serving

EXAMPLES = ROOT / "client" / "examples"
GUIDE = (ROOT / "docs" / "client.md").read_text()
PRINTED = re.compile(r"```python\n((?:(?!```).)*)```\n\n```\n(.*?)```", re.DOTALL)
QUOTED = re.compile(r"\[client/examples/(\w+)\.py\].*?```python\n(.*?)```.*?```\n(.*?)```", re.DOTALL)
BLOCKS = {
    title.strip(): text for title, text in re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", GUIDE, re.DOTALL | re.MULTILINE)
}
TESTED = {title: found for title, text in BLOCKS.items() if (found := PRINTED.search(text))}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("examples") / "var", ZOO) as running:
        yield running


@pytest.fixture
def place(server: Server, tmp_path: Path) -> Path:
    """A folder that looks like a clone where the first request of the README was made."""
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    (tmp_path / "var").mkdir()
    grant = {"name": "partner", "scopes": ["predict", "distill"], "budget": {"limit": 100}}
    answer = httpx.post(f"{server.url}/admin/v1/keys", json=grant, headers=server.admin)
    (tmp_path / "var" / "partner.json").write_bytes(answer.content)
    with Client(answer.json()["api_key"], server.url) as client:
        client.predict(tmp_path / "docs" / "example.png", "cifar10")
    return tmp_path


def run(place: Path, *command: str | Path, **environment: str) -> str:
    """What Python prints; it knows nothing of this process's environment."""
    done = subprocess.run(  # noqa: S603
        [sys.executable, *command], cwd=place, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_guide_is_tested_as_a_whole() -> None:
    quoted = len(QUOTED.findall(GUIDE))
    assert len(TESTED) + quoted == GUIDE.count("```python\n")
    assert quoted == 2


def test_the_blocks_of_the_guide_print_what_stands_below_them_one_after_the_other(server: Server, place: Path) -> None:
    for title, found in TESTED.items():
        code, printed = found.groups()
        shown = run(place, "-c", code.replace("http://127.0.0.1:8000", server.url), SDB_BASE_URL=server.url)
        assert shown == printed, title


def test_the_examples_print_what_the_guide_shows(server: Server, place: Path) -> None:
    quoted = {name: (code, printed) for name, code, printed in QUOTED.findall(GUIDE)}
    for name, (code, _) in quoted.items():
        assert code in (EXAMPLES / f"{name}.py").read_text()
    whom = {"SDB_BASE_URL": server.url}
    admin_key = (server.state_dir / "admin.key").read_text().strip()
    key_file = place / "partner.json"

    issued = run(place, EXAMPLES / "issue_key.py", key_file, **whom, SDB_API_KEY=admin_key)
    numbered = r"^ *\d+ key"  # entries of the audit log: other tests have written some before
    assert re.sub(numbered, "n key", issued, flags=re.MULTILINE) == re.sub(
        numbered, "n key", quoted["issue_key"][1], flags=re.MULTILINE
    )
    assert key_file.stat().st_mode & 0o777 == 0o600
    assert (
        run(place, EXAMPLES / "encrypted_image.py", key_file, "docs/example.png", **whom)
        == quoted["encrypted_image"][1]
    )
