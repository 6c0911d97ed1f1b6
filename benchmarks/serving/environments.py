"""A virtual environment for each peer that needs one, with the versions that its requirements.txt pins.

PyTorch, numpy and Pillow come from the environment of this process: the same for everybody, and not installed again.
"""

import subprocess
import sys
import sysconfig
import venv
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).parents[2]
PEERS = ROOT / "benchmarks" / "peers"
ENVIRONMENTS = ROOT / ".venv-bench"
SHARED = "zz_shared.pth"  # read last: a package of the environment's own is found first
READY = ".ready"


class NotInstallable(RuntimeError):
    """The packages of a peer cannot be had here."""


def interpreter(peer: str) -> Path:
    """The Python that runs `peer`; its environment is made if it is missing or its pins have changed.

    A peer without a requirements.txt runs in the environment of this process.

    Raises:
        NotInstallable: pip has failed.
    """
    requirements = PEERS / peer / "requirements.txt"
    if not requirements.exists():
        return Path(sys.executable)
    folder = ENVIRONMENTS / peer
    python, ready = folder / "bin" / "python", folder / READY
    if not ready.exists() or ready.read_text() != requirements.read_text():
        _install(folder, requirements)
        ready.write_text(requirements.read_text())
    return python


def _install(folder: Path, requirements: Path) -> None:
    venv.create(folder, with_pip=True, clear=True)
    pip = [str(folder / "bin" / "pip"), "--quiet", "--disable-pip-version-check", "install", "-r", str(requirements)]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)  # noqa: S603 - our own pip
    if done.returncode:
        raise NotInstallable(done.stderr.strip()[-500:])
    [site] = folder.glob("lib/python*/site-packages")
    # Not the folder's path alone: its own .pth files, of editable packages, are to count as well.
    (site / SHARED).write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")


def versions(peer: str, packages: tuple[str, ...]) -> dict[str, str]:
    """The versions of `packages` that `peer` runs with."""
    own = [str(site) for site in (ENVIRONMENTS / peer).glob("lib/python*/site-packages")]
    found: dict[str, str] = {}
    for distribution in distributions(path=[*own, sysconfig.get_path("purelib")]):
        name = distribution.metadata["Name"]
        if name in packages:
            found.setdefault(name, distribution.version)
    return found
