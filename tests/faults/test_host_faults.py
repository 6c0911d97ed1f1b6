"""The machine fails its server: no disk, no memory, no descriptors, a clock that jumps, a primary that dies."""

import asyncio
import contextlib
import resource
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from tests.conftest import encode, smooth_images, until
from tests.faults.box import OUTAGE, WELL, Box
from tests.faults.load import KEYED, PUBLIC
from tests.faults.processes import ready, spawn, start, stop
from tests.faults.sockets import connected
from tests.faults.store import Store
from tests.keys.replicas import pair, valkey, watched

pytestmark = pytest.mark.slow
RECOVERED_WITHIN_S = 2.0
FAKETIME = "faketime/libfaketime.so.1"
LIBRARIES = (Path("/usr/lib/x86_64-linux-gnu"), Path("/usr/lib/aarch64-linux-gnu"), Path("/usr/lib"))
HOUR_S = 3600


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of that size at `folder`."""
    folder.mkdir()
    mount = shutil.which("mount")
    if (
        mount is None
        or subprocess.run(  # noqa: S603 - ours
            [mount, "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=False, capture_output=True
        ).returncode
    ):
        pytest.skip("a disk of its own can be mounted by root alone")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)  # noqa: S603, S607 - ours


def fill(path: Path) -> None:
    """Write until there is no room."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def test_the_disk_of_the_state_folder_is_full(tmp_path: Path, zoo: Path, photo: bytes) -> None:
    """The embedded store ends rather than forget what it was told; it comes back when there is room."""
    with small_disk(tmp_path / "disk", "6m") as disk:
        state_dir, filler = disk / "var", disk / "filler"
        server = spawn(state_dir, zoo, {})
        ready(server)
        try:
            box = Box(server, photo)
            with box.under_load() as load:
                fill(filler)
                load.wait(KEYED, status=503)
                since = time.monotonic()
                time.sleep(2)
                assert (503, "store-unavailable") in load.seen(KEYED, since)
                assert set(load.seen(PUBLIC, since)) == WELL
                filler.unlink()
                assert load.wait(KEYED) < 3 * RECOVERED_WITHIN_S, "it is tried ever slower, every two seconds at last"
            assert set(load.seen(KEYED)) <= OUTAGE
            box.assert_nothing_lost()
        finally:
            assert stop(server) == 0


@pytest.mark.faults
def test_the_machine_has_no_memory(tmp_path: Path, zoo: Path, photo: bytes) -> None:
    """Large requests are refused while small ones are answered, and all are when there is memory again."""
    server = start(tmp_path / "var", zoo, SDB_MAX_BODY_BYTES=str(64 * 2**20))
    large = encode(smooth_images(1, 4500)[0].permute(1, 2, 0).numpy())
    try:
        box = Box(server, photo)
        box.ask()
        pages = int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + 24 * 2**20
        resource.prlimit(server.process.pid, resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))
        url = f"{server.url}/v1/models/tiny/predict"
        seen = {httpx.post(url, content=large, timeout=60).status_code for _ in range(4)}
        assert 503 in seen
        assert seen <= {200, 503}
        assert server.process.poll() is None
        resource.prlimit(server.process.pid, resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert httpx.post(url, content=large, timeout=60).status_code == 200
        assert box.ask(box.key["api_key"]).status_code == 200
    finally:
        assert stop(server) == 0


@pytest.mark.faults
def test_the_process_has_no_descriptors(tmp_path: Path, zoo: Path, photo: bytes) -> None:
    """The limit of the process is the limit of connections, less what the server needs for itself."""
    server = start(tmp_path / "var", zoo)
    try:
        box = Box(server, photo)
        used = len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))
        _, hard = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (used + 30, hard))
        with box.under_load() as load, ExitStack() as stack:
            for _ in range(100):
                stack.enter_context(connected(box.url))
            since = time.monotonic()
            load.wait(PUBLIC, 10)
            load.wait(KEYED, 10)
        assert load.seen(KEYED, since)[200, ""]
        assert server.process.poll() is None
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (hard, hard))
        until(box.ready)
        box.assert_nothing_lost()
    finally:
        assert stop(server) == 0


def clock_of(offset: Path) -> dict[str, str]:
    """The environment of a process whose clock is wrong by what the file says."""
    library = next((folder / FAKETIME for folder in LIBRARIES if (folder / FAKETIME).exists()), None)
    if library is None:
        pytest.skip("libfaketime is not installed")
    offset.write_text("+0")
    told = {"FAKETIME_TIMESTAMP_FILE": str(offset), "FAKETIME_NO_CACHE": "1", "DONT_FAKE_MONOTONIC": "1"}
    return {"LD_PRELOAD": str(library), **told}


@pytest.mark.faults
def test_the_clock_of_the_store_jumps(tmp_path: Path, zoo: Path, photo: bytes) -> None:
    """Windows and budgets are as full as that clock says; when it is right again, so are they."""
    offset = tmp_path / "offset"
    store = Store(tmp_path / "s", clock_of(offset))
    store.start()
    server = start(tmp_path / "var", zoo, SDB_REDIS_URL=store.url)
    try:
        box = Box(server, photo, store.url)
        limited = box.issue(rate_limits=[{"name": "hour", "limit": 3, "window_s": HOUR_S}])["api_key"]
        daily = box.issue(budget={"limit": 2, "refill": "daily"})["api_key"]
        assert [box.ask(limited).status_code for _ in range(4)] == [200, 200, 200, 429]
        assert [box.ask(daily).status_code for _ in range(3)] == [200, 200, 429]
        with box.under_load() as load:
            for jump in ("+400d", "-400d", "+0"):
                offset.write_text(jump)
                time.sleep(2)
                load.wait(KEYED)
                assert box.ask(limited).status_code in {200, 429}
        assert set(load.seen(PUBLIC)) == WELL
        assert set(load.seen(KEYED)) <= OUTAGE, "what was held when it jumped has lapsed"
        held = httpx.get(f"{box.url}/v1/keys/self", headers={"Authorization": f"Bearer {daily}"}, timeout=30).json()
        resets_at = datetime.fromisoformat(held["budget"]["resets_at"])
        assert resets_at - datetime.now(UTC) <= timedelta(days=1), "not in 400 days"
        assert box.ask(box.key["api_key"]).status_code == 200
        box.assert_nothing_lost()
    finally:
        assert stop(server) == 0
        store.kill()


@pytest.mark.faults
def test_the_clock_of_the_server_jumps(tmp_path: Path, zoo: Path, photo: bytes) -> None:
    """Budgets and windows go by the store's clock; a token is as old as the server's clock says, and no key is lost."""
    store, offset = Store(tmp_path / "s"), tmp_path / "offset"
    clock = clock_of(offset)
    store.start()
    server = ready(spawn(tmp_path / "var", zoo, {"SDB_REDIS_URL": store.url, **clock}))
    try:
        box = Box(server, photo, store.url)
        hourly = {"name": "hour", "limit": 3, "window_s": HOUR_S}
        limited = box.issue(rate_limits=[hourly])
        for _ in range(3):
            assert box.ask(limited["api_key"]).status_code == 200
        form = {"grant_type": "client_credentials"}
        other = box.issue()
        auth = (other["id"], other["api_key"])
        token = httpx.post(f"{box.url}/oauth2/token", data=form, auth=auth, timeout=30).json()["access_token"]
        assert box.ask(token).status_code == 200
        with box.under_load() as load:
            for jump in (f"+{2 * HOUR_S}", f"-{2 * HOUR_S}"):
                offset.write_text(jump)
                load.wait(KEYED)
                assert box.ask(limited["api_key"]).status_code == 429, "the window is the store's"
            offset.write_text(f"+{2 * HOUR_S}")
            assert box.ask(token).status_code == 401, "it is over"
            offset.write_text("+0")
            assert box.ask(token).status_code == 200
        assert set(load.seen(KEYED)) == set(load.seen(PUBLIC)) == WELL
        box.assert_nothing_lost()
    finally:
        assert stop(server) == 0
        store.kill()


def test_the_primary_dies_and_sentinels_promote_its_replica(tmp_path: Path, zoo: Path, photo: bytes) -> None:
    asyncio.run(_fail_over(tmp_path, zoo, photo))


async def _fail_over(folder: Path, zoo: Path, photo: bytes) -> None:
    """The links between the nodes live in this loop: whatever waits must do so in a thread."""
    async with pair(folder, valkey(), 0.02) as nodes, watched(nodes, folder, valkey()) as cluster:
        loop = asyncio.get_running_loop()

        def live_through() -> None:
            settings = {"SDB_REDIS_URL": cluster.url, "SDB_REDIS_REPLICAS": "1", "SDB_ANONYMOUS_PER_MINUTE": "1000000"}
            server = start(folder / "var", zoo, **settings)
            try:
                box = Box(server, photo, cluster.url)
                with box.under_load() as load:
                    asyncio.run_coroutine_threadsafe(cluster.fail_over(), loop).result()
                    assert load.wait(KEYED) < RECOVERED_WITHIN_S
                assert set(load.seen(PUBLIC)) == WELL
                assert set(load.seen(KEYED)) <= OUTAGE
                box.assert_nothing_lost()
            finally:
                assert stop(server) == 0

        await asyncio.to_thread(live_through)
