"""What cannot be served is refused at the start, in one line that says why, and harms nothing that is there."""

import hashlib
import json
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from tests.conftest import Server
from tests.faults.processes import ready, spawn, start, stop

pytestmark = pytest.mark.slow
EXPORTED_WITHIN_S = 300.0


@dataclass
class Place:
    """Where a server is to start: a state folder, and a models folder that may be spoiled."""

    state_dir: Path
    models: Path
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def bundle(self) -> Path:
        """The only one."""
        return self.models / "tiny"

    def edit(self, name: str, change: Callable[[bytes], bytes]) -> None:
        """Change a file of the bundle."""
        file = self.bundle / name
        file.write_bytes(change(file.read_bytes()))

    def seal(self) -> None:
        """Let the manifest vouch for the weights as they are now: only what is in them is wrong."""
        manifest = json.loads((self.bundle / "bundle.json").read_text())
        weights = (self.bundle / "weights.safetensors").read_bytes()
        manifest["files"] = {"weights.safetensors": hashlib.sha256(weights).hexdigest()}
        (self.bundle / "bundle.json").write_text(json.dumps(manifest))

    def started(self) -> tuple[int, str]:
        """The exit status of a server that is started here, and what it said."""
        server = spawn(self.state_dir, self.models, self.settings)
        status = server.process.wait(120)
        return status, self.state_dir.with_suffix(".log").read_text()

    def refused(self, reason: str) -> None:
        """A server that is started here ends with a line that says so."""
        status, said = self.started()
        assert status != 0
        assert reason in said
        assert "Traceback" not in said
        assert said.strip().splitlines()[-1].startswith("sdb: ")


@pytest.fixture
def place(tmp_path: Path, zoo: Path) -> Place:
    shutil.copytree(zoo, tmp_path / "models")
    return Place(tmp_path / "var", tmp_path / "models")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, zoo: Path) -> Iterator[Server]:
    server = start(tmp_path_factory.mktemp("running") / "var", zoo)
    yield server
    assert httpx.get(f"{server.url}/readyz").status_code == 200, "whatever was tried beside it"
    assert stop(server) == 0


@pytest.mark.faults
def test_the_manifest_is_damaged(place: Place) -> None:
    place.edit("bundle.json", lambda data: data[: len(data) // 2])
    place.refused("bundle.json")


def test_the_weights_are_not_those_of_the_manifest(place: Place) -> None:
    place.edit("weights.safetensors", lambda data: data[:-1] + bytes([data[-1] ^ 1]))
    place.refused("weights.safetensors")


def test_the_weights_are_truncated(place: Place) -> None:
    place.edit("weights.safetensors", lambda data: data[: len(data) // 2])
    place.seal()
    place.refused("weights")


@pytest.mark.faults
def test_the_weights_are_no_weights(place: Place) -> None:
    place.edit("weights.safetensors", lambda data: b"\x00" * len(data))
    place.seal()
    place.refused("weights")


def test_the_secret_of_a_model_is_missing(place: Place) -> None:
    (place.bundle / "demo.key").unlink()
    place.refused("no secret for model tiny")


@pytest.mark.faults
def test_the_secret_of_a_model_is_sealed_by_another_master_key(place: Place) -> None:
    sealed = place.state_dir / "model-secrets" / "tiny.sealed"
    sealed.parent.mkdir(parents=True)
    sealed.write_bytes(bytes(64))
    place.refused("sdb: ")


@pytest.mark.faults
def test_the_master_key_is_a_placeholder(place: Place) -> None:
    place.settings["SDB_MASTER_KEY"] = "changeme"
    place.refused("SDB_MASTER_KEY")


@pytest.mark.faults
def test_a_setting_is_out_of_range(place: Place) -> None:
    place.settings["SDB_MAX_BATCH"] = "0"
    place.refused("SDB_MAX_BATCH")


@pytest.mark.faults
def test_the_state_folder_cannot_be_written(place: Place) -> None:
    place.settings["SDB_STATE_DIR"] = "/proc/sdb"
    place.refused("/proc/sdb")


@pytest.mark.faults
def test_two_servers_have_one_state_folder(place: Place, running: Server) -> None:
    place.settings["SDB_STATE_DIR"] = str(running.state_dir)
    place.refused("another process uses the store")


def test_the_port_is_taken(place: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place.settings["SDB_PORT"] = str(taken.getsockname()[1])
        place.refused("Address already in use")


@pytest.mark.faults
def test_the_cache_of_engines_is_damaged(place: Place, photo: bytes) -> None:
    """It is made again."""
    place.settings["SDB_ENGINE"] = "onnxruntime"
    server = ready(spawn(place.state_dir, place.models, place.settings), within_s=EXPORTED_WITHIN_S)
    try:
        kept = [file for file in (place.state_dir / "engines").rglob("*") if file.is_file()]
        assert kept
    finally:
        assert stop(server) == 0
    for file in kept:
        file.write_bytes(b"damaged")
    server = ready(spawn(place.state_dir, place.models, place.settings), within_s=EXPORTED_WITHIN_S)
    try:
        answer = httpx.post(f"{server.url}/v1/models/tiny/predict", content=photo, timeout=30)
        assert answer.status_code == 200
    finally:
        assert stop(server) == 0
