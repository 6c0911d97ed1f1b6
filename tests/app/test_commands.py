"""`sdb` as a process of its own, beside a running server and without one."""

import asyncio
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.settings import Settings
from tests.conftest import ROOT, Api, bearer

SDB = ROOT / ".venv" / "bin" / "sdb"
PREDICT = "/v1/models/tiny/predict"
Json = dict[str, Any]


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
    process = await asyncio.create_subprocess_exec(
        SDB, *arguments, env=given, cwd=state_dir.parent, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
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
