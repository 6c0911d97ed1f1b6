"""This product as a server under test: `sdb serve` as an operator starts it, with its defaults.

Knows the command, the settings and the admin's door; depends on nothing inside.
"""

import json
import sys
import urllib.parse
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from app.settings import ZOO
from benchmarks.serving.doors import http
from benchmarks.serving.processes import Process, free_port, running, wait_until

SDB = (str(Path(sys.executable).parent / "sdb"), "serve")
BARE = (sys.executable, "-m", "benchmarks.serving.bare", "serve")
ROOT = Path(__file__).parents[2]


def environ(state: Path, models_dir: Path, port: int) -> dict[str, str]:
    """What the server is told."""
    settings = {"SDB_STATE_DIR": str(state), "SDB_MODELS_DIR": str(models_dir), "SDB_PORT": str(port)}
    return {"PYTHONPATH": str(ROOT), "HOME": str(state.parent), **settings}


def issue(process: Process, state: Path, **grant: object) -> dict[str, Any]:
    """A new client key of the server with this state folder."""
    body = {"name": "benchmark", "budget": {"limit": 10**9}, **grant}
    admin = f"Bearer {(state / 'admin.key').read_text().strip()}"
    asked = http("/admin/v1/keys", json.dumps(body).encode(), Content_Type="application/json", Authorization=admin)
    return _answer(process, asked, 201)


def token(process: Process, state: Path, scopes: Sequence[str]) -> str:
    """An access token of a new key with these scopes."""
    key = issue(process, state, scopes=scopes)
    basic = b64encode(f"{key['id']}:{key['api_key']}".encode()).decode()
    form = urllib.parse.urlencode({"grant_type": "client_credentials"}).encode()
    kind = "application/x-www-form-urlencoded"
    asked = http("/oauth2/token", form, Content_Type=kind, Authorization=f"Basic {basic}")
    return str(_answer(process, asked, 200)["access_token"])


def _answer(process: Process, request: bytes, expected: int) -> dict[str, Any]:
    status, body = process.ask(request)
    assert status == expected, body
    answer: dict[str, Any] = json.loads(body)
    return answer


@contextmanager
def serving(**settings: str) -> Iterator[tuple[Process, Path]]:
    """A server with the shipped model, ready to be asked, until the body ends; and its state folder."""
    with TemporaryDirectory() as folder:
        state, port = Path(folder) / "var", free_port()
        told = environ(state, ZOO, port) | settings
        with running(SDB, port, Path(folder), told, Path(folder) / "log") as process:
            wait_until(process, lambda: process.ask(b"GET /readyz HTTP/1.1\r\nHost: box\r\n\r\n")[0] == 200)
            yield process, state
