"""The embedded store as an operator meets it: durable, private, one owner, hard to lose."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from redis import Redis

from keys.embedded import EmbeddedStore, StoreInUse
from keys.errors import ConfigurationError
from tests.conftest import alive, until

OWNER = """
import sys, time
from pathlib import Path
from keys.embedded import EmbeddedStore
with EmbeddedStore(Path(sys.argv[1])):
    print("ready", flush=True)
    time.sleep(60)
"""
WRITER = """
import sys
from pathlib import Path
from redis import Redis
from keys.embedded import EmbeddedStore
with EmbeddedStore(Path(sys.argv[1])) as store, Redis.from_url(store.url) as client:
    client.set("written", "yes")
    print(client.get("written").decode())
"""


def ask(store: EmbeddedStore, *command: str) -> object:
    """The store's answer to one command, through its URL."""
    with Redis.from_url(store.url, decode_responses=True, socket_timeout=5) as client:
        answer: object = client.execute_command(*command)
        return answer


def pid_of(store: EmbeddedStore) -> int:
    information = ask(store, "INFO", "server")
    assert isinstance(information, dict)
    return int(information["process_id"])


@pytest.mark.parametrize(
    ("setting", "value"),
    [("appendonly", "yes"), ("appendfsync", "always"), ("port", "0"), ("maxmemory-policy", "noeviction"), ("save", "")],
)
def test_the_server_is_durable_and_has_no_port(tmp_path: Path, setting: str, value: str) -> None:
    with EmbeddedStore(tmp_path) as store:
        assert ask(store, "CONFIG", "GET", setting) == {setting: value}


def test_folder_and_socket_belong_to_the_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "store"
    with EmbeddedStore(folder):
        assert folder.stat().st_mode & 0o777 == 0o700
        assert (folder / "valkey.sock").stat().st_mode & 0o777 == 0o700
        assert (folder / "lock").stat().st_mode & 0o777 == 0o600


def test_a_folder_that_others_could_read_is_closed_to_them(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with EmbeddedStore(tmp_path):
        assert tmp_path.stat().st_mode & 0o777 == 0o700


def test_data_survives_an_orderly_stop_which_ends_the_process(tmp_path: Path) -> None:
    with EmbeddedStore(tmp_path) as store:
        ask(store, "SET", "written", "yes")
        first = pid_of(store)
    assert not Path(f"/proc/{first}").exists()
    with EmbeddedStore(tmp_path) as store:
        assert ask(store, "GET", "written") == "yes"


def test_data_survives_the_killing_of_the_server(tmp_path: Path) -> None:
    with EmbeddedStore(tmp_path) as store:
        for number in range(20):
            ask(store, "INCRBY", "counter", str(number))
        os.kill(pid_of(store), signal.SIGKILL)
    with EmbeddedStore(tmp_path) as store:
        assert ask(store, "GET", "counter") == str(sum(range(20)))


def test_a_start_takes_two_seconds_at_most_even_after_the_server_was_killed(tmp_path: Path) -> None:
    for _ in range(2):
        begun = time.monotonic()
        with EmbeddedStore(tmp_path) as store:
            assert time.monotonic() - begun < 2
            os.kill(pid_of(store), signal.SIGKILL)
            assert (tmp_path / "valkey.sock").exists(), "what a killed server leaves"


def test_the_orphan_of_a_killed_owner_is_taken_over_with_its_data(tmp_path: Path) -> None:
    command = [sys.executable, "-c", OWNER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:  # noqa: S603 - our own command
        try:
            assert owner.stdout is not None
            assert owner.stdout.readline() == "ready\n"
            visitor = EmbeddedStore(tmp_path)
            ask(visitor, "SET", "written", "yes")
            orphan = pid_of(visitor)
        finally:
            owner.kill()
    os.kill(orphan, 0)  # it lives on
    try:
        with EmbeddedStore(tmp_path) as store:
            assert ask(store, "GET", "written") == "yes"
            until(lambda: not alive(orphan), what="no two servers write one file")
    finally:
        with suppress(ProcessLookupError):
            os.kill(orphan, signal.SIGKILL)


def test_a_second_owner_is_refused_and_does_no_harm(tmp_path: Path) -> None:
    with EmbeddedStore(tmp_path) as store:
        ask(store, "SET", "written", "yes")
        with pytest.raises(StoreInUse), EmbeddedStore(tmp_path, wait_s=0.1):
            pass
        assert ask(store, "GET", "written") == "yes"


def test_the_next_owner_waits_for_the_first_to_leave(tmp_path: Path) -> None:
    with ExitStack() as first:
        ask(first.enter_context(EmbeddedStore(tmp_path)), "SET", "written", "yes")
        leaving = threading.Timer(0.3, first.close)
        leaving.start()
        with EmbeddedStore(tmp_path) as second:
            assert ask(second, "GET", "written") == "yes"
        leaving.join()


def test_a_start_that_fails_gives_the_lock_back(tmp_path: Path) -> None:
    obstacle = tmp_path / "appendonlydir"
    obstacle.write_text("not a folder")
    with pytest.raises(ConfigurationError), EmbeddedStore(tmp_path):
        pass
    obstacle.unlink()
    with EmbeddedStore(tmp_path, wait_s=0.1) as store:
        assert ask(store, "PING")


def test_a_folder_that_cannot_be_used_is_said_to_be_so(tmp_path: Path) -> None:
    (tmp_path / "store").touch()
    with pytest.raises(ConfigurationError, match="folder of the embedded store"), EmbeddedStore(tmp_path / "store"):
        pass


def test_a_path_too_long_for_a_socket_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 108)
    with pytest.raises(ConfigurationError, match="SDB_STATE_DIR"):
        EmbeddedStore(folder)
    assert not folder.exists()


@pytest.mark.parametrize("name", ["with space", "with%41percent", "with?mark", "with#hash", "ümlaut"])
def test_a_folder_of_any_name_holds_a_store(tmp_path: Path, name: str) -> None:
    with EmbeddedStore(tmp_path / name) as store:
        assert ask(store, "PING")


@pytest.mark.parametrize("argument", ["var/store", "{0}/var/store", "../store"])
def test_a_folder_below_or_beside_the_working_directory_holds_a_store(tmp_path: Path, argument: str) -> None:
    here = tmp_path / "here"
    here.mkdir()
    command = [sys.executable, "-c", WRITER, argument.format(here)]
    child = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)  # noqa: S603 - our own
    assert (child.returncode, child.stdout) == (0, "yes\n"), child.stderr


def test_a_terminals_interrupt_does_not_reach_the_server(tmp_path: Path) -> None:
    """Ctrl-C goes to the terminal's session; the store has one of its own."""
    with EmbeddedStore(tmp_path) as store:
        assert os.getsid(pid_of(store)) != os.getsid(0)


def test_a_process_that_changes_its_folder_keeps_its_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # from where the store is near
    with EmbeddedStore(tmp_path / "store") as store:
        monkeypatch.chdir("/")
        assert ask(store, "PING") is True
