"""`python -m app.advisories.audit LOCK`: holes of what a lock names, from the snapshot and, if there is one, online.

The exit status is 1 if one applies that is not accepted. Where no advisory service can be reached, the snapshot alone
is judged, and that is said.
"""

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from app.advisories.known import Advisory, accepted, locked, open_holes

WITHIN_S = 300


def main() -> int:
    """Judge the lock that the command line names."""
    lock, today = Path(sys.argv[1]), datetime.now(UTC).date()
    packages = locked(lock)
    holes = list(open_holes(packages, today))
    online = _online(lock)
    if online is None:
        sys.stderr.write("no advisory service can be reached: the snapshot alone is judged\n")
    holes += open_holes(packages, today, online or ())
    for hole in dict.fromkeys(holes):
        versions = " and ".join(version for package, version in packages if package == hole.package)
        sys.stdout.write(f"{hole.package} {versions}: {hole.id} {hole.summary}\n")
    for entry in accepted():
        if entry.until < today:
            sys.stdout.write(f"{entry.package}: {entry.id} was accepted until {entry.until}; look again\n")
    sys.stdout.write(f"{len(packages)} packages, {len(holes)} with a hole that is not accepted\n")
    return int(bool(holes))


def _online(lock: Path) -> list[Advisory] | None:
    """What pip-audit finds, None where it cannot ask."""
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(lock), "--no-deps", "--disable-pip"]
    command += ["--format", "json", "--progress-spinner", "off"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=WITHIN_S)  # noqa: S603 - ours
        packages = json.loads(said.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, json.JSONDecodeError):
        return None
    if all("skip_reason" in package for package in packages):
        return None
    return [
        Advisory(_cve(hole), package["name"], f"=={package['version']}", hole.get("description", "").partition("\n")[0])
        for package in packages
        for hole in package.get("vulns", ())
    ]


def _cve(hole: dict[str, Any]) -> str:
    """The name under which a hole is accepted: services call it by their own, and know the others."""
    names: list[str] = [hole["id"], *hole.get("aliases", ())]
    return next((name for name in names if name.startswith("CVE-")), names[0])


if __name__ == "__main__":
    sys.exit(main())
