"""Every secret is planted and everything that leaves the process is searched: nothing of any secret is in it."""

import base64
import io
import json
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from sdb_client.sealed import MEDIA_TYPE, seal

from app.main import create_app
from app.observability import JsonFormatter
from app.settings import Settings
from app.state import DEMO_SECRET, State
from keys.material import from_text, to_text, write_private
from tests.conftest import SECRET, Api, bearer

PREDICT = "/v1/models/tiny/predict"
MASTER, OLDER_MASTER, TOKEN_KEY, METRICS_TOKEN = (
    bytes((place * step + 7) % 256 for place in range(32)) for step in (37, 41, 43, 47)
)
PASSWORD = "canary-of-the-store-k7Qp2"


@dataclass
class Watched:
    """Everything that left: what was logged, in both formats, what was answered, what is on the disk."""

    texts: dict[str, bytes] = field(default_factory=dict)
    secrets: dict[str, bytes | str] = field(default_factory=dict)

    def answered(self, answer: httpx.Response, *, shows: str = "") -> httpx.Response:
        """An answer left; `shows` is the one secret that it is there to tell."""
        body = answer.content if not shows else answer.content.replace(shows.encode(), b"told once")
        head = str(sorted(answer.headers.items())).encode()
        self.texts[f"answer {len(self.texts)} to {answer.request.method} {answer.request.url.path}"] = head + body
        return answer

    def leaks(self) -> list[tuple[str, str]]:
        """Which secret is where."""
        return [
            (secret, place)
            for secret, value in self.secrets.items()
            for written in forms(value)
            for place, text in self.texts.items()
            if written in text
        ]


def forms(secret: bytes | str) -> set[bytes]:
    """How a secret may be written: as it is, in base64, in hexadecimal, as Python shows bytes; a text also in part."""
    if isinstance(secret, str):
        return {secret.encode(), secret[-16:].encode()}
    return {
        secret,
        to_text(secret).encode()[:42],
        base64.b64encode(secret)[:42],
        secret.hex().encode(),
        secret.hex().upper().encode(),
        repr(secret).encode()[2:-1],
        json.dumps(list(secret)).encode(),
    }


@contextmanager
def logged(watched: Watched) -> Iterator[None]:
    """Everything that any logger says, however little it matters, in both formats."""
    plain, as_json = io.StringIO(), io.StringIO()
    handlers = [logging.StreamHandler(plain), logging.StreamHandler(as_json)]
    handlers[1].setFormatter(JsonFormatter())
    root, ours = logging.getLogger(), logging.getLogger("sdb")
    before = root.level
    for handler in handlers:
        handler.addFilter(lambda record: not record.name.startswith(("httpx", "httpcore")))  # the test's own client
        root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    ours.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        root.setLevel(before)
        ours.setLevel(logging.NOTSET)
        for handler in handlers:
            root.removeHandler(handler)
        watched.texts |= {"log": plain.getvalue().encode(), "log in JSON": as_json.getvalue().encode()}


@pytest.fixture
def planted(settings: Settings, tmp_path: Path, zoo: Path) -> Settings:
    """A deployment whose every secret is known to the test, with a model that is no demo."""
    models = tmp_path / "models" / "tiny"
    models.mkdir(parents=True)
    for file in (zoo / "tiny").iterdir():
        if file.name != DEMO_SECRET:
            (models / file.name).write_bytes(file.read_bytes())
    keys = {
        "SDB_MASTER_KEY": f"{to_text(MASTER)},{to_text(OLDER_MASTER)}",
        "SDB_TOKEN_KEYS": to_text(TOKEN_KEY),
        "SDB_METRICS_TOKEN": to_text(METRICS_TOKEN),
        "SDB_OTLP_HEADERS": f"authorization={PASSWORD}",
    }
    given = Settings.from_environment(keys).model_dump(exclude_unset=True)
    planted = settings.model_copy(update={**given, "models_dir": models.parent})
    vault = State(planted).vault
    write_private(planted.state_dir / "model-secrets" / "tiny.sealed", vault.seal(SECRET, "model-secret/tiny"))
    return planted


@pytest.fixture
async def box(planted: Settings) -> AsyncIterator[tuple[Api, Watched]]:
    watched = Watched(
        secrets={
            "master key": MASTER,
            "older master key": OLDER_MASTER,
            "token key": TOKEN_KEY,
            "metrics token": METRICS_TOKEN,
            "password": PASSWORD,
            "model key": SECRET,
        }
    )
    app = create_app(planted)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://box") as client:
            api = Api(client, app, (planted.state_dir / "admin.key").read_text().strip())
            watched.secrets["admin key"] = api.admin_key
            yield api, watched


async def work(api: Api, watched: Watched, photo: bytes) -> None:
    """A life of a deployment: keys made, changed and ended, answers of every kind, refusals of every kind."""

    async def ask(method: str, path: str, **how: object) -> httpx.Response:
        return watched.answered(await api.client.request(method, path, **how))  # type: ignore[arg-type]

    scopes = ["predict", "distill", "decrypt"]
    body = {"name": "partner", "scopes": scopes, "budget": {"limit": 10}, "image_key": {"scheme": "sealed"}}
    made = await api.client.post("/admin/v1/keys", json=body, headers=api.admin)
    key = made.json()
    own, image_secret = bearer(key["api_key"]), from_text(key["image_key"]["secret"])
    watched.secrets |= {"API key": key["api_key"], "image key": image_secret}
    access = await api.token(key)
    watched.secrets["access token"] = access
    message = seal(photo, image_secret, kid=key["image_key"]["kid"], model="tiny")
    for headers in ({}, own, bearer(access), bearer(key["api_key"][:-1] + "x"), bearer(access[:-2]), api.admin):
        await ask("POST", PREDICT, content=photo, headers=headers)
        await ask("GET", "/v1/keys/self", headers=headers)
    for content in (message, message, message[:-1], photo):
        await ask("POST", PREDICT, content=content, headers={**own, "Content-Type": MEDIA_TYPE})
    await ask("POST", "/oauth2/introspect", data={"token": access}, headers=api.admin)
    await ask("POST", "/oauth2/token", data={"client_id": key["id"], "client_secret": key["api_key"] + "x"})
    rotated = await api.client.post(f"/admin/v1/keys/{key['id']}/rotate", json={"overlap_s": 60}, headers=api.admin)
    watched.secrets["rotated API key"] = rotated.json()["api_key"]
    await ask(
        "POST", "/console/login", data={"api_key": api.admin_key, "ticket": "x"}, headers={"Origin": "http://box"}
    )
    for path in ("keys", f"keys/{key['id']}", f"keys/{key['id']}/ledger", f"keys/{key['id']}/usage", "audit"):
        await ask("GET", f"/admin/v1/{path}", headers=api.admin)
    for path in ("/console/login", "/try", "/metrics", "/openapi.json", "/readyz", "/v1/models", "/v2", "/nowhere"):
        await ask("GET", path)
    await ask("GET", "/metrics", headers=bearer(to_text(METRICS_TOKEN)))
    await ask("POST", f"{PREDICT}?{key['api_key'][:12]}=1", content=photo, headers=own)
    await ask("PATCH", f"/admin/v1/keys/{key['id']}", json={"name": 7, "api_key": "x"}, headers=api.admin)


def broken(api: Api) -> None:
    """Let the model fail as a mistake of ours would."""

    async def fail(*_: object) -> None:
        raise RuntimeError("a mistake")

    (model,) = api.app.state.services.models
    model.submit = fail


async def test_no_secret_leaves_the_process(box: tuple[Api, Watched], photo: bytes, planted: Settings) -> None:
    api, watched = box
    with logged(watched):
        await work(api, watched, photo)
        broken(api)
        assert watched.answered(await api.client.post(PREDICT, content=photo)).status_code == 500
    assert b"a mistake" in watched.texts["log"], "the log does say what happened"
    assert all(json.loads(line) for line in watched.texts["log in JSON"].splitlines())
    files = {path for folder in (planted.models_dir, planted.state_dir) for path in folder.rglob("*") if path.is_file()}
    watched.texts |= {str(path): path.read_bytes() for path in files if path.name != "admin.key"}
    watched.texts["settings"] = f"{planted!r} {planted} {planted.model_dump()} {planted.model_dump_json()}".encode()
    services = api.app.state.services
    watched.texts["reprs"] = repr([services, vars(services.keys), vars(State(planted))]).encode()
    assert len(watched.texts) > 40
    assert watched.leaks() == []


async def test_a_store_that_cannot_be_reached_does_not_cost_its_password(settings: Settings, photo: bytes) -> None:
    watched = Watched(secrets={"password": PASSWORD})
    url = {"SDB_REDIS_URL": f"redis://operator:{PASSWORD}@127.0.0.1:1/0"}
    given = settings.model_copy(update=Settings.from_environment(url).model_dump(exclude_unset=True))
    with logged(watched):
        app = create_app(given)
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://box") as client:
                for path in ("/readyz", "/v2/health/ready", "/metrics", "/v1/keys/self"):
                    watched.answered(await client.get(path, headers=bearer("sdb_cli_x") if "self" in path else {}))
                assert watched.answered(await client.post(PREDICT, content=photo)).status_code == 200
    watched.texts["settings"] = f"{given!r} {given.model_dump_json()}".encode()
    assert watched.leaks() == []


@pytest.mark.parametrize("written", ["as bytes", "as text", "in hexadecimal", "as a repr", "as a list"])
def test_the_search_would_find_each_form(written: str) -> None:
    texts = {
        "as bytes": b"x" + MASTER,
        "as text": b"key=" + to_text(MASTER).encode(),
        "in hexadecimal": MASTER.hex().encode(),
        "as a repr": repr({"key": MASTER}).encode(),
        "as a list": json.dumps({"key": list(MASTER)}).encode(),
    }
    assert Watched({written: texts[written]}, {"master": MASTER}).leaks()
    assert not Watched({written: texts[written]}, {"master": TOKEN_KEY}).leaks()
