"""docs/architecture.md matches the tree: all that it names exists, and no room of the house is left out."""

import html
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "architecture.md").read_text()
ROOMS = ("app", "keys", "models", "client/sdb_client")
NAMED_BY_THE_ROOM_ABOVE = {
    "client/sdb_client/answers",
    "client/sdb_client/resources",
    "models/attacks/locks",
    "models/attacks/tracing",
}


def named() -> list[str]:
    """Paths of the table, whole: `app/hosting.py`, `workers.py` names two files of one folder."""
    found: list[str] = []
    for row in re.findall(r"^\| (`[^|]*) \|", PAGE, re.MULTILINE):
        folder = Path()
        for path in re.findall(r"`([^`]+)`", row):
            whole = Path(path) if (ROOT / path.split("/")[0]).exists() and "/" in path else folder / path
            folder = whole.parent
            found.append(str(whole))
    return found


def packages() -> set[str]:
    """Folders of Python files below the rooms."""
    files = (file for room in ROOMS for file in (ROOT / room).rglob("*.py"))
    return {str(file.parent.relative_to(ROOT)) for file in files}


def top_level() -> set[str]:
    """The folders that git keeps."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("not a clone")
    files = subprocess.run([git, "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout  # noqa: S603
    return {file.partition("/")[0] for file in files.splitlines() if "/" in file}


def test_all_that_the_page_names_exists() -> None:
    assert len(named()) > 40
    for path in named():
        assert list(ROOT.glob(path.rstrip("/"))), path


def test_every_package_is_a_room_of_the_page() -> None:
    known = {path.rstrip("/") for path in named()} | {str(Path(path).parent) for path in named()}
    assert packages() - known - NAMED_BY_THE_ROOM_ABOVE == set()


def test_every_folder_of_the_repository_is_named() -> None:
    assert {folder for folder in top_level() if f"`{folder}/`" not in PAGE} == set()


def test_the_drawing_is_that_of_its_source() -> None:
    figures = ROOT / "docs" / "figures"
    source, drawing = (figures / "prediction.mmd").read_text(), (figures / "prediction.svg").read_text()
    drawn = set(html.unescape(re.sub(r"<style.*?</style>|<[^>]+>", " ", drawing, flags=re.DOTALL)).split())
    labels = re.findall(r'"([^"]+)"', source)
    assert len(labels) > 15
    assert {word for label in labels for word in label.replace("<br>", " ").split()} - drawn == set()
