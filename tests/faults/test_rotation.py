"""Both secrets are changed as docs/rotating.md says, on two real servers with one store, and no caller notices."""

import base64
import json
import secrets
import socket
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from sdb_client.sealed import MEDIA_TYPE, seal

from keys.material import from_text
from tests.conftest import Server, until
from tests.faults.box import Box
from tests.faults.processes import SDB, ready, spawn, stop
from tests.faults.store import Store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
SERVERS = 2
SECRETS = ("master_key", "token_keys")
Asking = Callable[[], list[int]]


@dataclass
class Fleet:
    """Servers that take callers from one socket, each with the secrets that the files had at its start."""

    state_dir: Path
    models_dir: Path
    store: Store
    listener: socket.socket
    servers: list[Server] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Where one of them answers."""
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def start(self) -> None:
        """One more, when it takes callers."""
        number, port = self.listener.fileno(), str(self.listener.getsockname()[1])
        settings = {"SDB_REDIS_URL": self.store.url, "SDB_FD": str(number), "SDB_PORT": port}
        before = self._started()
        server = spawn(self.state_dir, self.models_dir, settings, pass_fds=[number])
        until(lambda: self._started() > before, 300, "another server has started")
        self.servers.append(ready(server))

    def _started(self) -> int:
        log = self.state_dir.with_suffix(".log")
        return log.read_text().count("Started server process") if log.exists() else 0

    def restart(self) -> None:
        """All of them, one after the other: the new one starts before the old one ends."""
        for _ in range(SERVERS):
            self.start()
            assert stop(self.servers.pop(0)) == 0

    def write(self, change: Callable[[list[str], str], list[str]], new: dict[str, str]) -> None:
        """Change the lines of both files."""
        for name in SECRETS:
            path = self.state_dir / name
            path.write_text("\n".join(change(path.read_text().split(), new[name])) + "\n")

    def rewrap(self) -> dict[str, object]:
        """What `sdb keys rewrap` says."""
        environment = {"SDB_STATE_DIR": str(self.state_dir), "SDB_REDIS_URL": self.store.url}
        command = [str(SDB), "keys", "rewrap", "--json"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)  # noqa: S603 - ours
        told: dict[str, object] = json.loads(done.stdout)
        return told


@pytest.fixture
def fleet(tmp_path: Path, zoo: Path) -> Iterator[Fleet]:
    store = Store(tmp_path / "s")
    store.start()
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        listener.set_inheritable(True)
        fleet = Fleet(tmp_path / "var", zoo, store, listener)
        for _ in range(SERVERS):
            fleet.start()
        yield fleet
        for server in fleet.servers:
            assert stop(server) == 0
    store.kill()


@contextmanager
def asking(*callers: Asking) -> Iterator[Counter[int]]:
    """Callers who ask one after the other until the body ends; what they were answered."""
    answers, over = Counter[int](), threading.Event()

    def ask(once: Asking) -> None:
        while not over.wait(0.05):
            try:
                answers.update(once())
            except httpx.TransportError:
                answers[0] += 1

    threads = [threading.Thread(target=ask, args=(caller,)) for caller in callers]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        over.set()
        for thread in threads:
            thread.join()


def signer_of(token: str) -> str:
    """Which of the signing keys has signed a token."""
    head = token.partition(".")[0]
    kid: str = json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))["kid"]
    return kid


def test_both_secrets_of_two_servers_are_rotated_with_no_request_failed(fleet: Fleet, photo: bytes) -> None:
    box = Box(Server(fleet.servers[0].process, fleet.url, fleet.state_dir), photo, fleet.store.url)
    key = httpx.post(
        f"{fleet.url}/admin/v1/keys",
        json={"name": "partner", "scopes": ["predict", "distill", "decrypt"], "image_key": {"scheme": "sealed"}},
        headers=box.server.admin,
    ).json()
    predict, own, signers = f"{fleet.url}/v1/models/tiny/predict", key["image_key"], set[str]()

    def sealed() -> list[int]:
        message = seal(photo, from_text(own["secret"]), kid=own["kid"], model="tiny")
        headers = {"Authorization": f"Bearer {key['api_key']}", "Content-Type": MEDIA_TYPE}
        return [httpx.post(predict, content=message, headers=headers, timeout=30).status_code]

    def with_token() -> list[int]:
        form, auth = {"grant_type": "client_credentials"}, (key["id"], key["api_key"])
        token = httpx.post(f"{fleet.url}/oauth2/token", data=form, auth=auth, timeout=30).json()["access_token"]
        signers.add(signer_of(token))
        headers = {"Authorization": f"Bearer {token}"}
        return [httpx.post(predict, content=photo, headers=headers, timeout=30).status_code for _ in range(3)]

    def plain() -> list[int]:
        return [box.ask(box.key["api_key"]).status_code]

    new = {name: secrets.token_urlsafe(32) for name in SECRETS}
    with asking(sealed, with_token, plain) as answers:
        fleet.write(lambda lines, newest: [*lines, newest], new)
        fleet.restart()
        fleet.write(lambda lines, newest: [newest, *(line for line in lines if line != newest)], new)
        fleet.restart()
        admin = httpx.get(f"{fleet.url}/admin/v1/keys", headers=box.server.admin, timeout=30)
        assert admin.status_code == 200
        assert fleet.rewrap()["waiting"] == []
        before = answers.total()
        fleet.write(lambda _, newest: [newest], new)
        fleet.restart()
        until(lambda: answers.total() > before + 20, 60, "the new secrets alone answer")
    assert set(answers) == {200}
    assert len(signers) == 2, "both keys have signed"
    box.assert_nothing_lost()
