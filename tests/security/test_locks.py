"""What is installed is what the lock names, and nothing of it without a hash."""

import re
import tomllib
from pathlib import Path

import pytest

from tests.conftest import ROOT

LOCK, HASHED = ROOT / "requirements.lock", ROOT / "requirements.hashed.lock"
OWN = "sdb-client=="  # a folder of this repository
PYPROJECTS = [ROOT / "pyproject.toml", ROOT / "client" / "pyproject.toml"]


def requirements(lock: Path) -> dict[str, list[str]]:
    """Each requirement as pip reads it, version and condition, with its hashes."""
    joined = lock.read_text().replace("\\\n", " ")
    lines = (line for line in joined.splitlines() if line and not line.lstrip().startswith("#"))
    return {line.partition(" --hash=")[0].strip(): re.findall(r"--hash=(\S+)", line) for line in lines}


def test_both_locks_name_the_same_packages_in_the_same_versions_under_the_same_conditions() -> None:
    readable = {requirement for requirement in requirements(LOCK) if not requirement.startswith(OWN)}
    assert readable == requirements(HASHED).keys()
    assert len(readable) > 200


def test_each_package_has_its_hashes() -> None:
    for requirement, hashes in requirements(HASHED).items():
        assert re.match(r"[a-z0-9-]+==\S+( ;|$)", requirement), requirement
        assert hashes, requirement
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", one) for one in hashes), requirement


@pytest.mark.parametrize("lock", [LOCK, HASHED], ids=["readable", "hashed"])
def test_a_lock_names_no_index_no_path_and_no_address(lock: Path) -> None:
    assert not re.search(r"^\s*-(?!-hash)|://|\s@\s|file:", lock.read_text(), re.MULTILINE)


def test_make_installs_nothing_without_a_hash_but_this_repository() -> None:
    rule = (ROOT / "Makefile").read_text().partition("\n$(READY): ")[2].partition("\n\n")[0]
    installs = [line for line in rule.splitlines() if "pip install" in line]
    assert rule.startswith(HASHED.name)
    for line in installs:
        options = set(line.split())
        assert options >= {"--require-hashes", HASHED.name} or options >= {"--no-deps", "--no-build-isolation"}, line
    assert len(installs) == 2


@pytest.mark.parametrize("pyproject", PYPROJECTS, ids=["server", "client"])
def test_what_builds_our_packages_is_locked(pyproject: Path) -> None:
    """They are built without isolation, for pip would fetch the builder without a hash."""
    wanted = tomllib.loads(pyproject.read_text())["build-system"]["requires"]
    assert set(wanted) <= requirements(HASHED).keys()
