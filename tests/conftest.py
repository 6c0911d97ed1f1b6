"""What tests ask for: real images where they are, a small real bundle, a store, the application, a server."""

import gc
import io
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
import pytest_asyncio
import torch
from fastapi import FastAPI
from PIL import Image

from app.main import create_app
from app.settings import Settings
from app.state import DEMO_SECRET
from keys.embedded import EmbeddedStore
from keys.material import to_text, write_private
from models import bundles
from models.bundles import GuardSpec, InputSpec, Manifest
from models.key_stream import fingerprint

ROOT = Path(__file__).parent.parent
SDB = shutil.which("sdb", path=str(ROOT / ".venv" / "bin")) or "sdb"
CLASSES = ("plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SECRET = bytes(range(100, 132))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--data", default=str(ROOT.parent / "shared" / "data"), help="folder of the real image sets")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What test files import stays: the collector would look through all of it, again and again, in vain."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="session")
def data(request: pytest.FixtureRequest) -> Path:
    """The folder of real images; a test that needs it is skipped where it is missing."""
    folder = Path(request.config.getoption("--data"))
    if not folder.is_dir():
        pytest.skip(f"no image sets in {folder}")
    return folder


def smooth_images(count: int, side: int = 32, seed: int = 0) -> torch.Tensor:
    """Random images uint8 [N, 3, side, side] that are as smooth as photographs, unlike noise."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 4, 4, generator=generator)
    fine = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1)
    return (fine * 255).to(torch.uint8)


def encode(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    """Pixels uint8 [H, W, 3] as an image file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def photo() -> bytes:
    """A PNG of 40 by 48 pixels."""
    return encode(smooth_images(1, 48)[0].permute(1, 2, 0).numpy()[:40])


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one small bundle, "tiny": real architecture, calibrated release stage, untrained weights."""
    folder = tmp_path_factory.mktemp("zoo")
    manifest = Manifest(
        name="tiny",
        architecture="cifar_resnet8",
        classes=CLASSES,
        input=InputSpec(height=32, width=32),
        guard=GuardSpec(secret_fingerprint=fingerprint(SECRET)),
    )
    torch.manual_seed(0)
    box = bundles.assemble(manifest, SECRET)
    box.release.calibrate(smooth_images(512))
    bundles.save(folder / "tiny", manifest, box.state_dict(), SECRET)
    write_private(folder / "tiny" / DEMO_SECRET, to_text(SECRET).encode())
    return folder


@pytest.fixture(scope="session")
def store_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An embedded store that runs for the whole session; a test that needs an empty one starts its own."""
    with EmbeddedStore(tmp_path_factory.mktemp("store")) as store:
        yield store.url


@dataclass
class Api:
    """The application in this process, its client and its first admin's key."""

    client: httpx.AsyncClient
    app: FastAPI
    admin_key: str

    @property
    def admin(self) -> dict[str, str]:
        """Headers of the admin."""
        return bearer(self.admin_key)

    async def issue(self, limit: int | None = 100, **fields: object) -> dict[str, str]:
        """A new client key with the scope `distill`: its record with `api_key`."""
        body = {"name": "partner", "scopes": ["predict", "distill"], "budget": {"limit": limit}, **fields}
        answer = await self.client.post("/admin/v1/keys", json=body, headers=self.admin)
        assert answer.status_code == 201, answer.text
        key: dict[str, str] = answer.json()
        return key

    async def token(self, key: dict[str, str]) -> str:
        """An access token of that key."""
        form = {"grant_type": "client_credentials"}
        answer = await self.client.post("/oauth2/token", data=form, auth=(key["id"], key["api_key"]))
        assert answer.status_code == 200, answer.text
        return str(answer.json()["access_token"])


def bearer(credential: str) -> dict[str, str]:
    """The Authorization header that presents `credential`."""
    return {"Authorization": f"Bearer {credential}"}


def settings_in(folder: Path, models_dir: Path) -> Settings:
    """Of an application of tests, with its state in a folder."""
    return Settings(
        state_dir=folder / "var", models_dir=models_dir, device="cpu", engine="eager", max_body_bytes=200_000
    )


@asynccontextmanager
async def application(settings: Settings) -> AsyncIterator[Api]:
    """The shipped application with its lifespan, spoken to in-process."""
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://box") as client:
            yield Api(client, app, (settings.state_dir / "admin.key").read_text().strip())


@pytest.fixture
def settings(tmp_path: Path, zoo: Path) -> Settings:
    return settings_in(tmp_path, zoo)


@pytest.fixture
async def api(settings: Settings) -> AsyncIterator[Api]:
    """The application of one test; its store is its own embedded one."""
    async with application(settings) as api:
        yield api


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_api(tmp_path_factory: pytest.TempPathFactory, zoo: Path) -> AsyncIterator[Api]:
    """The application of a whole file, for tests that bring their own keys; they run in the loop of the module."""
    async with application(settings_in(tmp_path_factory.mktemp("api"), zoo)) as api:
        yield api


@dataclass
class Server:
    """A real server process and where it listens."""

    process: subprocess.Popen[bytes]
    url: str
    state_dir: Path

    @property
    def admin(self) -> dict[str, str]:
        """Headers of the first admin."""
        return bearer((self.state_dir / "admin.key").read_text().strip())


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def alive(pid: int) -> bool:
    """Whether a process runs: an orphan that has ended stays a zombie where nobody asks for its status."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def write_shades(images: Path, *names: str, **splits: int) -> None:
    """Image folders of a class for each name, each brighter than the one before: so many images in each split."""
    for split, count in splits.items():
        for shade, name in enumerate(names):
            folder = images / split / name
            folder.mkdir(parents=True)
            pixels = smooth_images(count, seed=shade).permute(0, 2, 3, 1).numpy() // len(names)
            pixels += 240 // len(names) * shade
            for number, image in enumerate(pixels):
                (folder / f"{number}.png").write_bytes(encode(image))


def until(true: Callable[[], bool], within_s: float = 30.0, what: str = "it is so") -> float:
    """Ask until it is true; seconds that it took."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() < began + within_s, f"not within {within_s} s: {what}"
        time.sleep(0.02)
    return time.monotonic() - began


def start_server(state_dir: Path, models_dir: Path, port: int, **settings: str) -> Server:
    """`sdb serve` as a process of its own, ready to be asked."""
    environment = {
        "SDB_STATE_DIR": str(state_dir),
        "SDB_MODELS_DIR": str(models_dir),
        "SDB_PORT": str(port),
        "SDB_ENGINE": "eager",  # nothing to find out at each start
        "SDB_DRAIN_DELAY_S": "0",  # no balancer is to notice its end
        **settings,
    }
    log = state_dir.with_suffix(".log")
    with log.open("ab") as output:
        process = subprocess.Popen([SDB, "serve"], env=environment, stdout=output, stderr=output)  # noqa: S603 - ours
    url = f"http://127.0.0.1:{port}"
    give_up = time.monotonic() + 100
    with httpx.Client() as client:  # `httpx.get` reads the authorities of the whole web each time that it is called
        while time.monotonic() < give_up:
            if process.poll() is not None:
                raise AssertionError(f"the server ended: {log.read_text()}")
            with suppress(httpx.TransportError):
                if client.get(f"{url}/readyz").status_code == 200:
                    return Server(process, url, state_dir)
            time.sleep(0.05)
    process.kill()
    process.wait()
    raise AssertionError("the server is not ready after 100 s")


@contextmanager
def serving(state_dir: Path, models_dir: Path, **settings: str) -> Iterator[Server]:
    """The same on a free port, until the body ends."""
    server = start_server(state_dir, models_dir, free_port(), **settings)
    try:
        yield server
    finally:
        server.process.terminate()
        server.process.wait()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, zoo: Path) -> Iterator[Server]:
    """A server of "tiny" for all who do not mind what others ask it; who stops it, or changes it, starts another."""
    with serving(tmp_path_factory.mktemp("server") / "var", zoo) as running:
        yield running
