"""`sdb` as a process of its own, beside a running server and without one."""

import asyncio
import hashlib
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import SecretStr
from safetensors.numpy import save_file
from typer.testing import CliRunner

from app import cli
from app.settings import Settings
from app.state import State
from keys.material import to_text
from tests.conftest import CLASSES, ROOT, Api, bearer, encode

SDB = ROOT / ".venv" / "bin" / "sdb"
PREDICT = "/v1/models/tiny/predict"
Json = dict[str, Any]
SDB_WITHOUT = """
import sys
from importlib.abc import MetaPathFinder

class Uninstalled(MetaPathFinder):
    names = sys.argv.pop(1).split(",")

    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Uninstalled())
from app.cli import main
main()
"""
EXTRA = "art,httpx,matplotlib"  # torch itself brings jinja2


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    status: int
    out: str
    err: str

    @property
    def record(self) -> Json:
        """What it printed with `--json` about one thing."""
        found: Json = json.loads(self.out)
        return found

    @property
    def records(self) -> list[Json]:
        """What it printed with `--json` about several."""
        found: list[Json] = json.loads(self.out)
        return found

    def assert_one_line(self, text: str) -> None:
        """It failed as commands fail: status 1 and a line on standard error."""
        assert (self.status, self.out) == (1, ""), self
        assert self.err.startswith("sdb: ")
        assert self.err.count("\n") == 1
        assert text in self.err


async def sdb(state_dir: Path, zoo: Path, *arguments: str, **environment: str) -> Outcome:
    """Run `sdb` beside a state folder that it is told only the name of, with nothing of this process's environment."""
    given = {"SDB_STATE_DIR": state_dir.name, "SDB_MODELS_DIR": str(zoo), **environment}
    return await _run(state_dir.parent, given, SDB, *arguments)


async def sdb_without(modules: str, folder: Path, *arguments: str) -> Outcome:
    """Run `sdb` in `folder` where these modules are not installed."""
    return await _run(folder, {}, sys.executable, "-c", SDB_WITHOUT, modules, *arguments)


async def _run(folder: Path, environment: dict[str, str], *command: str | Path) -> Outcome:
    process = await asyncio.create_subprocess_exec(
        *command, env=environment, cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return Outcome(process.returncode, out.decode(), err.decode())


async def test_keys_made_and_revoked_beside_a_running_server_take_effect_at_once(
    api: Api, settings: Settings, zoo: Path, photo: bytes
) -> None:
    var = settings.state_dir
    options = ("--scope", "distill", "--model", "tiny", "--budget", "5", "--expires-at", "2099-01-01T00:00:00")
    created, unknown = await asyncio.gather(
        sdb(var, zoo, "keys", "create", "--name", "partner", *options, "--json", TZ="America/New_York"),
        sdb(var, zoo, "keys", "show", "key_none", "--json"),
    )
    unknown.assert_one_line("key_none")
    assert (created.status, created.err) == (0, "")
    key = created.record
    assert re.fullmatch(r"sdb_cli_[0-9A-Za-z]{38}", key["api_key"])
    answer = await api.client.post(PREDICT, content=photo, headers=bearer(key["api_key"]))
    assert (answer.json()["tier"], answer.json()["budget"]) == ("distill", {"limit": 5, "remaining": 4})
    own = (await api.client.get("/v1/keys/self", headers=bearer(key["api_key"]))).json()
    assert (own["name"], own["scopes"], own["models"]) == ("partner", ["distill", "predict"], ["tiny"])

    revoked = await sdb(var, zoo, "keys", "revoke", key["id"], "--json")
    assert revoked.record["state"] == "revoked"
    assert "api_key" not in revoked.record
    assert (await api.client.post(PREDICT, content=photo, headers=bearer(key["api_key"]))).status_code == 401

    # `--expires-at` is UTC, wherever the admin sits.
    assert (key["expires_at"], own["expires_at"]) == ("2099-01-01T00:00:00Z",) * 2


async def test_without_a_server_keys_outlive_the_command_that_made_them(tmp_path: Path, zoo: Path) -> None:
    var = tmp_path / "var"
    created = await sdb(var, zoo, "keys", "create", "--name", "boss", "--admin", "--json")
    assert (created.status, created.err) == (0, "")
    key = created.record
    listed = await sdb(var, zoo, "keys", "list", "--json")
    api_key = key.pop("api_key")
    assert re.fullmatch(r"sdb_adm_[0-9A-Za-z]{38}", api_key)
    assert listed.records == [key]
    assert api_key not in listed.out
    assert (key["name"], key["kind"], key["scopes"], key["expires_at"]) == ("boss", "admin", [], None)
    assert var.stat().st_mode & 0o777 == 0o700
    assert (var / "master_key").stat().st_mode & 0o777 == 0o600


async def test_image_keys_are_looked_after_beside_a_running_server(api: Api, settings: Settings, zoo: Path) -> None:
    var = settings.state_dir
    create = ("keys", "create", "--name", "clinic", "--scope", "decrypt", "--json")
    created, needless, odd = await asyncio.gather(
        sdb(var, zoo, *create, "--image-key", "pixel:shf:4"),
        sdb(var, zoo, *create[:4], "--image-key", "sealed"),
        sdb(var, zoo, *create, "--image-key", "pixel:shf:4:5"),
    )
    needless.assert_one_line("scope decrypt")
    odd.assert_one_line("image_key")
    key = created.record
    first = key["image_key"]
    assert (first["scheme"], first["transform"], first["block"], len(first["secret"])) == ("pixel", "shf", 4, 43)
    own = (await api.client.get("/v1/keys/self", headers=bearer(key["api_key"]))).json()
    assert own["image_key"] == {name: value for name, value in first.items() if name != "secret"}

    issued = await sdb(var, zoo, "keys", "new-image-key", key["id"], "pixel:np:8", "--overlap-s", "60", "--json")
    second = issued.record
    listed, shown, unknown = await asyncio.gather(
        sdb(var, zoo, "keys", "image-keys", key["id"], "--json"),
        sdb(var, zoo, "keys", "show", key["id"], "--json"),
        sdb(var, zoo, "keys", "retire-image-key", key["id"], "img_nobody"),
    )
    unknown.assert_one_line("img_nobody")
    states = [(image_key["kid"], image_key["state"]) for image_key in listed.records]
    assert states == [(second["kid"], "active"), (first["kid"], "retiring")]
    assert shown.record["image_key"] == listed.records[0]
    for secret in (first["secret"], second["secret"]):
        assert secret not in listed.out + shown.out
    retired = await sdb(var, zoo, "keys", "retire-image-key", key["id"], second["kid"], "--json")
    assert (retired.record["kid"], retired.record["state"]) == (second["kid"], "retired")


async def test_after_a_rewrap_the_new_master_key_alone_opens_everything(tmp_path: Path, zoo: Path) -> None:
    var, (old, new) = tmp_path / "var", (to_text(hashlib.sha256(name).digest()) for name in (b"old", b"new"))
    state = State(Settings(state_dir=var, master_key=SecretStr(old)))
    secret = state.new_model_secret("tiny")
    options = ("--name", "clinic", "--scope", "decrypt", "--image-key", "sealed", "--json")
    key = (await sdb(var, zoo, "keys", "create", *options, SDB_MASTER_KEY=old)).record

    too_early = await sdb(var, zoo, "keys", "rewrap", "--json", SDB_MASTER_KEY=new)
    assert too_early.status == 1
    assert "SDB_MASTER_KEY" in too_early.err
    assert too_early.record["model_secrets"]["unreadable"] == ["model-secret/tiny"]
    assert len(too_early.record["image_keys"]["unreadable"]) == 1

    done = {"resealed": 1, "current": 0, "unreadable": []}
    again = {"resealed": 0, "current": 1, "unreadable": []}
    for ring, tally in ((f"{new},{old}", done), (f"{new},{old}", again), (new, again)):
        rewrapped = await sdb(var, zoo, "keys", "rewrap", "--json", SDB_MASTER_KEY=ring)
        assert (rewrapped.status, rewrapped.err) == (0, "")
        assert rewrapped.record == {"model_secrets": tally, "image_keys": tally, "waiting": [key["id"]]}
    assert State(Settings(state_dir=var, master_key=SecretStr(new))).model_secret("tiny", tmp_path) == (secret, False)
    assert [path.name for path in (var / "model-secrets").iterdir()] == ["tiny.sealed"]


async def test_a_secret_that_cannot_be_used_is_one_line_without_the_secret(tmp_path: Path, zoo: Path) -> None:
    refused = await sdb(tmp_path / "var", zoo, "keys", "list", SDB_MASTER_KEY="A" * 43)
    refused.assert_one_line("SDB_MASTER_KEY")
    assert "A" * 43 not in refused.err


async def test_the_doctor_says_for_each_part_whether_the_server_would_start(tmp_path: Path, zoo: Path) -> None:
    broken = tmp_path / "zoo" / "broken"
    broken.mkdir(parents=True)
    for file in (zoo / "tiny").iterdir():
        content = file.read_bytes()
        (broken / file.name).write_bytes(content[:-1] + b"\x00" if file.suffix == ".safetensors" else content)
    good, bad = await asyncio.gather(
        sdb(tmp_path / "a", zoo, "doctor", "--json", SDB_DEVICE="cpu"),
        sdb(tmp_path / "b", broken.parent, "doctor", "--json", SDB_DEVICE="cpu", SDB_REDIS_URL="redis://127.0.0.1:1"),
    )
    assert good.status == 0, good.out
    rows = {row["check"]: row for row in good.records}
    assert list(rows) == ["python", "settings", "secrets", "store", "device", "models", "model tiny"]
    assert {row["result"] for row in rows.values()} == {"ok"}
    assert "DEMO" in rows["model tiny"]["detail"]

    assert (bad.status, bad.err) == (1, "")
    assert {row["check"] for row in bad.records if row["result"] == "fail"} == {"store", "model broken"}


@pytest.fixture
def attackers(tmp_path: Path, zoo: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a few images, a file of no weights, and the settings of a deployment."""
    images = [encode(np.zeros((32, 32, 3), np.uint8))] * 20
    table = pa.table({"image": images, "label": [0] * 20}).replace_schema_metadata({"class_names": json.dumps(CLASSES)})
    for split in ("train", "test"):
        pq.write_table(table, tmp_path / f"images_{split}.parquet")
    save_file({}, tmp_path / "empty.safetensors")
    monkeypatch.setenv("SDB_STATE_DIR", str(tmp_path / "var"))
    monkeypatch.setenv("SDB_MODELS_DIR", str(zoo))
    return tmp_path


async def test_only_evaluate_needs_its_extra_and_says_what_to_install(tmp_path: Path) -> None:
    helped, refused = await asyncio.gather(
        sdb_without(EXTRA, tmp_path, "--help"),
        sdb_without(EXTRA, tmp_path, "evaluate", "--model", "tiny", "--seeds=0", "--help"),
    )
    assert (helped.status, helped.err) == (0, "")
    assert all(re.search(rf"^\W*{name} +\w", helped.out, re.MULTILINE) for name in cli.COMMANDS), helped.out
    refused.assert_one_line("pip install 'safe-distillation-box[evaluate]'")


async def test_keys_are_looked_after_without_torch(tmp_path: Path) -> None:
    listed, unknown = await asyncio.gather(
        sdb_without(f"{EXTRA},torch,numpy", tmp_path, "keys", "list", "--json"),
        sdb_without(f"{EXTRA},torch,numpy", tmp_path, "keys", "show"),
    )
    assert (listed.status, listed.out, listed.err) == (0, "[]\n", "")
    assert unknown.status == 2
    (await sdb_without(f"{EXTRA},torch,numpy", tmp_path, "keys", "show", "key_none")).assert_one_line("key_none")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ("--seeds 0,0", "--seeds: different whole numbers"),
        ("--seeds one", "--seeds: different whole numbers"),
        ("--seeds 0,", "--seeds: different whole numbers"),
        ("--seeds -1", "--seeds: different whole numbers"),
        ("--seeds 4294967296", "--seeds: different whole numbers"),
        ("--images 99", "--images"),
        ("--epochs 0", "--epochs"),
        ("--teacher nowhere", "'--teacher': file 'nowhere' does not exist"),
        ("--backbone .", "'--backbone': file '.' is a directory"),
        ("--out secret", "'--out'"),
        ("--url http://box --teacher secret", "not with --url"),
        ("--url http://box --backbone secret", "not with --url"),
        ("--token secret", "--token goes with --url"),
        ("--url http://box --token nowhere", "--token: neither"),
        ("--url http://box --token .", "--token: neither"),
        ("--url http://box --token empty", "--token: neither"),
        ("--url http://box --token binary", "--token: neither"),
        ("--url http://box --token accents", "--token: neither"),
        ("--url http://box --token two", "--token: neither"),
    ],
)
def test_evaluate_refuses_what_it_cannot_do_before_it_loads_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: str, why: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret").write_text("sdb_cli_secret\n")
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "accents").write_text("sdb_cli_é\n", "utf-8")
    (tmp_path / "two").write_text("sdb_cli_one\nsdb_cli_two\n")
    refused = CliRunner().invoke(cli.app, ["evaluate", "--model", "tiny", "--data", "images", *options.split()])
    assert (refused.exit_code, refused.stdout) == (2, ""), refused.stderr
    assert isinstance(refused.exception, SystemExit), "no traceback"
    assert sum(why in line for line in refused.stderr.splitlines()) == 1, refused.stderr
    assert "sdb_cli" not in refused.stderr


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ("--model nothing", "nothing"),
        ("--model tiny --device abacus", "abacus"),
        ("--model tiny --data nowhere", "nowhere"),
        ("--model tiny --foreign nowhere", "nowhere"),
        ("--model tiny --teacher empty.safetensors", "does not fit"),
        ("--model tiny --student abacus", "abacus"),
        ("--model tiny --arms abacus", "abacus"),
        ("--model tiny --url ftp://box", "does not answer"),
    ],
)
def test_what_evaluate_finds_wrong_later_is_one_line(
    attackers: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: str, why: str
) -> None:
    monkeypatch.chdir(attackers)
    monkeypatch.setattr(sys, "argv", ["sdb", "evaluate", "--data", "images", *options.split()])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    out, err = capsys.readouterr()
    code = stopped.value.code  # what the interpreter makes of it: a text is a line and status 1
    status, line = (code, "") if isinstance(code, int) else (1, f"{code}\n")
    Outcome(status, out, err.lstrip("\n") + line).assert_one_line(why)  # a progress bar ends in an empty line
