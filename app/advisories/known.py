"""Published holes of what is installed, and those that are accepted with a reason and a date.

Knows a snapshot that is part of the program, so that it needs no network; `make audit` also asks the online services.
"""

import json
import re
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from importlib.metadata import distributions
from pathlib import Path

from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

FOLDER = Path(__file__).parent
PINNED = re.compile(r"[\w.\[\]-]+==")


@dataclass(frozen=True)
class Advisory:
    """A published hole: which versions of a package have it."""

    id: str
    package: str
    affected: str
    summary: str

    def applies(self, version: str) -> bool:
        """Whether a version has it; one that cannot be read may."""
        try:
            return SpecifierSet(self.affected).contains(Version(version), prereleases=True)
        except InvalidVersion:
            return True


@dataclass(frozen=True)
class Accepted:
    """An advisory that applies and is lived with: why, which test shows that it does no harm, and until when."""

    id: str
    package: str
    reason: str
    shown_by: str
    since: date
    until: date


def snapshot() -> list[Advisory]:
    """The advisories that this program knows."""
    return [Advisory(**entry) for entry in json.loads((FOLDER / "snapshot.json").read_bytes())]


def accepted() -> list[Accepted]:
    """What is accepted, expired or not."""
    entries = tomllib.loads((FOLDER / "accepted.toml").read_text())["accepted"]
    return [Accepted(**entry) for entry in entries]


def installed() -> dict[str, str]:
    """The version of every Python package of this environment."""
    return {canonicalize_name(found.name): found.version for found in distributions()}


def locked(lock: Path) -> list[tuple[str, str]]:
    """Every package that a lock file names, and its version; one that has another for an older Python, twice."""
    lines = (line.split(";")[0].split()[0] for line in lock.read_text().splitlines() if PINNED.match(line))
    pairs = (line.partition("==") for line in lines)
    return [(canonicalize_name(name.partition("[")[0]), version) for name, _, version in pairs]


def open_holes(
    packages: Iterable[tuple[str, str]], today: date, known: Iterable[Advisory] | None = None
) -> Iterator[Advisory]:
    """The advisories that apply to one of these packages in its version and are not accepted today."""
    versions = defaultdict[str, list[str]](list)
    for package, version in packages:
        versions[package].append(version)
    lived_with = {(entry.id, entry.package) for entry in accepted() if entry.since <= today <= entry.until}
    for advisory in snapshot() if known is None else known:
        applies = any(map(advisory.applies, versions[advisory.package]))
        if applies and (advisory.id, advisory.package) not in lived_with:
            yield advisory
