"""What docs/deployment.md says of a lost store: what comes back from a backup, what does not, and how one notices."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.conftest import ROOT, Server, bearer, free_port, serving, start_server
from tests.deployment.manifests import DOCKER
from tests.keys.conftest import wait_for_answer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
OF_CONTAINERS = ("include", "dir")  # lines of redis.conf that only mean something there


@contextmanager
def redis(folder: Path) -> Iterator[str]:
    """The store as docker/redis/redis.conf describes it, with its data in `folder`; its URL."""
    binary = shutil.which("redis-server")
    if binary is None or shutil.which("redis-cli") is None:
        pytest.skip("no Redis on this machine")
    lines = (DOCKER / "redis" / "redis.conf").read_text().splitlines()
    folder.mkdir(exist_ok=True)
    (folder / "own.conf").write_text("\n".join(line for line in lines if not line.startswith(OF_CONTAINERS)))
    with (folder / "log").open("ab") as log:
        command = [binary, "own.conf", "--port", "0", "--unixsocket", "s"]
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)  # noqa: S603
    try:
        url = f"unix://{folder / 's'}"
        wait_for_answer(url)
        yield url
    finally:
        process.terminate()
        process.wait()


def back_up(folder: Path) -> bytes:
    """The archive that docker/redis/backup writes of the store that runs in `folder`."""
    environment = {"PATH": os.defpath, "SOCKET": str(folder / "s")}
    command = ["sh", str(DOCKER / "redis" / "backup"), str(folder)]
    return subprocess.run(command, env=environment, capture_output=True, check=True).stdout  # noqa: S603


def restore(archive: bytes, folder: Path) -> None:
    subprocess.run(["tar", "-C", folder, "-xf", "-"], input=archive, check=True)  # noqa: S607, S603


def issue(server: Server, name: str, limit: int) -> dict[str, str]:
    grant = {"name": name, "scopes": ["distill"], "budget": {"limit": limit}}
    made: dict[str, str] = httpx.post(f"{server.url}/admin/v1/keys", json=grant, headers=server.admin).json()
    return made


def spend(server: Server, key: dict[str, str], image: bytes, times: int) -> None:
    for _ in range(times):
        url = f"{server.url}/v1/models/tiny/predict"
        assert httpx.post(url, content=image, headers=bearer(key["api_key"])).status_code == 200


def admin(server: Server, method: str, path: str) -> httpx.Response:
    return httpx.request(method, f"{server.url}/admin/v1/{path}", headers=server.admin)


def remaining(server: Server, key: dict[str, str]) -> int:
    left: int = admin(server, "GET", f"keys/{key['id']}").json()["budget"]["remaining"]
    return left


def intact(state: Path, url: str, head: str) -> bool:
    """Whether the audit log is whole, and contains the entry whose hash somebody has kept."""
    environment = {"SDB_STATE_DIR": str(state), "SDB_REDIS_URL": url}
    command = [str(ROOT / ".venv" / "bin" / "sdb"), "audit", "verify", "--head", head]
    return subprocess.run(command, env=environment, capture_output=True, check=False).returncode == 0  # noqa: S603


def head_of(server: Server) -> str:
    head: str = admin(server, "GET", "audit/verify").json()["head"]
    return head


def test_a_store_that_is_lost_comes_back_as_it_was_at_its_backup(tmp_path: Path, zoo: Path, photo: bytes) -> None:
    state, folder = tmp_path / "var", tmp_path / "redis"
    with redis(folder) as url, serving(state, zoo, SDB_REDIS_URL=url) as server:
        kept, leaked = issue(server, "kept", 100), issue(server, "leaked", 100)
        spend(server, kept, photo, 3)
        before = head_of(server)
        archive = back_up(folder)
        spend(server, kept, photo, 2)
        assert admin(server, "POST", f"keys/{leaked['id']}/revoke").status_code == 200
        after = head_of(server)
    shutil.rmtree(folder)

    folder.mkdir()
    restore(archive, folder)
    with redis(folder) as url, serving(state, zoo, SDB_REDIS_URL=url) as server:
        assert remaining(server, kept) == 97, "two answers may be had once more"
        assert intact(state, url, before)
        assert not intact(state, url, after), "a head that was kept elsewhere tells that something is missing"
        spend(server, leaked, photo, 1)  # revoked since the backup, and valid again
        assert admin(server, "POST", f"keys/{leaked['id']}/revoke").status_code == 200
        spend(server, kept, photo, 97)
        assert remaining(server, kept) == 0


def test_a_backup_stops_nobody_and_leaves_the_store_as_it_found_it(tmp_path: Path, zoo: Path, photo: bytes) -> None:
    folder = tmp_path / "redis"
    with redis(folder) as url, serving(tmp_path / "var", zoo, SDB_REDIS_URL=url) as server:
        key = issue(server, "partner", 100)
        settings = ["redis-cli", "-s", str(folder / "s"), "CONFIG", "GET", "auto-aof-rewrite-percentage"]
        before = subprocess.run(settings, capture_output=True, check=True).stdout  # noqa: S603
        spend(server, key, photo, 2)
        archives = [back_up(folder), back_up(folder)]
        spend(server, key, photo, 2)
        assert subprocess.run(settings, capture_output=True, check=True).stdout == before  # noqa: S603
        assert not list(folder.glob("backup.*"))
    for number, archive in enumerate(archives):
        restored = tmp_path / f"restored-{number}"
        restored.mkdir()
        restore(archive, restored)
        with redis(restored) as url, serving(tmp_path / "var", zoo, SDB_REDIS_URL=url) as server:
            assert remaining(server, key) == 98


def test_the_state_folder_of_a_stopped_server_is_all_that_a_machine_needs(
    tmp_path: Path, zoo: Path, photo: bytes
) -> None:
    state, elsewhere = tmp_path / "var", tmp_path / "elsewhere"
    with serving(state, zoo) as server:
        key = issue(server, "partner", 100)
        spend(server, key, photo, 3)
    shutil.copytree(state, elsewhere, ignore=lambda *_: ["valkey.sock"])
    shutil.rmtree(state)
    with serving(elsewhere, zoo) as server:
        assert remaining(server, key) == 97
        spend(server, key, photo, 1)


def test_without_a_backup_every_key_is_unknown_and_a_new_admin_is_made(tmp_path: Path, zoo: Path, photo: bytes) -> None:
    state = tmp_path / "var"
    with serving(state, zoo) as server:
        key, before = issue(server, "partner", 100), server.admin
    shutil.rmtree(state / "store")
    with serving(state, zoo) as server:
        assert server.admin != before
        url = f"{server.url}/v1/models/tiny/predict"
        assert httpx.post(url, content=photo, headers=bearer(key["api_key"])).status_code == 401
        assert httpx.post(url, content=photo).status_code == 200
        assert admin(server, "GET", "keys").status_code == 200


def test_a_backup_of_keys_without_their_master_key_opens_nothing(tmp_path: Path, zoo: Path, photo: bytes) -> None:
    state = tmp_path / "var"
    with serving(state, zoo) as server:
        key = issue(server, "partner", 100)
    (state / "master_key").unlink()
    server = start_server(state, zoo, free_port())
    try:
        url = f"{server.url}/v1/models/tiny/predict"
        assert httpx.post(url, content=photo, headers=bearer(key["api_key"])).status_code == 401
        assert admin(server, "GET", "keys").status_code == 401
    finally:
        server.process.terminate()
        server.process.wait()
