"""What the image's last steps make: the wheels of this repository, installed, serve as a stranger on a read-only root.

The packages that they need are taken from the environment of the tests, which has them at the versions of the lock.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.conftest import ROOT, free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
USER = 10001
# What the root may be written to is what the image says: the state, and a /tmp that is forgotten.
READ_ONLY = """
mount --make-rprivate /
mount --bind "$STATE" "$STATE"
mount --bind "$BASE" "$INSTALLED/base"
mount -o remount,bind,ro "$INSTALLED/base"
mount --bind "$PACKAGES" "$INSTALLED/packages"
mount -o remount,bind,ro "$INSTALLED/packages"
mount -o remount,bind,ro /
mount -t tmpfs -o size=256m tmpfs /tmp
exec setpriv --reuid 10001 --regid 10001 --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all "$@"
"""


@dataclass
class Stranger:
    """A server process of another user, where it listens, keeps its state and writes its log."""

    process: subprocess.Popen[bytes]
    url: str
    state: Path
    log: Path

    def label(self, image: bytes) -> str:
        """What it sees in an image, as soon as it answers; empty if it ends before."""
        give_up = time.monotonic() + 300
        while time.monotonic() < give_up and self.process.poll() is None:
            try:
                answer = httpx.post(f"{self.url}/v1/models/cifar10/predict", content=image).json()
            except httpx.TransportError:
                time.sleep(0.2)
            else:
                return str(answer["predictions"][0]["label"])
        return ""


def wheels(folder: Path) -> list[Path]:
    """Both distributions, built as the image builds them from the files that reach its build."""
    source = folder / "source"
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line.startswith("!"):
            path = ROOT / line.removeprefix("!")
            copy = shutil.copytree if path.is_dir() else shutil.copy2
            source.mkdir(exist_ok=True)
            copy(path, source / path.name)
    command = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, "./client", ".")
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)  # noqa: S603
    if "No matching distribution found for hatchling" in done.stderr:
        pytest.skip("the build's own package cannot be fetched here")
    assert done.returncode == 0, done.stderr
    return list(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An environment with the wheels alone; it finds what they need in that of the tests."""
    folder = Path("/srv") / f"sdb-installed-{os.getpid()}"  # a stranger may not look into pytest's folders
    if os.geteuid() != 0 or not os.access("/srv", os.W_OK):
        pytest.skip("to become another user takes root")
    try:
        # Python and its packages may lie where no stranger may look either: they are mounted at `base` and `packages`.
        program = f"python{sysconfig.get_python_version()}"
        (folder / "bin").mkdir(parents=True)
        (folder / "bin" / "python").symlink_to(folder / "base" / "bin" / program)
        (folder / "pyvenv.cfg").write_text(f"home = {folder / 'base' / 'bin'}\n")
        (folder / "base").mkdir()
        (folder / "packages").mkdir()
        site = folder / "lib" / program / "site-packages"
        built = wheels(tmp_path_factory.mktemp("wheels"))
        options = ["--quiet", "--no-deps", "--no-index", "--target"]
        command = [sys.executable, "-m", "pip", "install", *options, str(site), *map(str, built)]
        subprocess.run(command, check=True)  # noqa: S603
        (site / "of-the-tests.pth").write_text(str(folder / "packages"))
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def stranger(installed: Path, tmp_path: Path) -> Iterator[Stranger]:
    """The server as user 10001, who may write to its state and to /tmp and nowhere else."""
    state, port = installed.with_name(f"{installed.name}-state"), free_port()
    state.mkdir(mode=0o700)
    os.chown(state, USER, USER)
    variables = {
        "PATH": os.defpath,
        "HOME": "/tmp",  # noqa: S108 - as in the image
        "LD_LIBRARY_PATH": str(installed / "base" / "lib"),  # of a Python that is mounted elsewhere
        "SDB_STATE_DIR": str(state),
        "SDB_PORT": str(port),
        "SDB_ENGINE": "eager",
    }
    serve = (str(installed / "bin" / "python"), "-c", "from app.cli import main; main()", "serve")
    command = ["unshare", "--mount", "sh", "-euc", READ_ONLY, "sh", *serve]
    packages = sysconfig.get_path("purelib")
    mounts = {"STATE": str(state), "INSTALLED": str(installed), "BASE": sys.base_prefix, "PACKAGES": packages}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, env=variables | mounts, cwd="/", stdout=log, stderr=log)  # noqa: S603
    try:
        yield Stranger(process, f"http://127.0.0.1:{port}", state, tmp_path / "log")
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(state)


def test_the_wheels_serve_as_a_stranger_on_a_read_only_root(stranger: Stranger) -> None:
    label = stranger.label((ROOT / "docs" / "example.png").read_bytes())
    if "mount: " in stranger.log.read_text():
        pytest.skip("no mounts of our own on this machine")
    assert label == "ship", stranger.log.read_text()
    status = Path(f"/proc/{stranger.process.pid}/status").read_text()
    assert f"Uid:\t{USER}\t{USER}" in status
    assert "CapEff:\t0000000000000000" in status
    key = stranger.state / "admin.key"
    assert key.stat().st_mode & 0o777 == 0o600
    assert key.read_text().strip() not in stranger.log.read_text()
    stranger.process.terminate()
    assert stranger.process.wait(60) == 0
