"""`sdb doctor`, `sdb evaluate` and what every command does when it cannot do what it is asked."""

import asyncio
import json
import re
import shutil
import socket
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

from app import cli
from app.commands.own_models import find, find_or_folder
from app.errors import UnknownModel
from app.listening import listening
from app.settings import Settings
from keys.errors import ConfigurationError
from tests.app.processes import EXTRA, Outcome, sdb, sdb_here, sdb_without
from tests.conftest import CLASSES, encode


async def test_a_secret_that_cannot_be_used_is_one_line_without_the_secret(tmp_path: Path, zoo: Path) -> None:
    refused = await sdb(tmp_path / "var", zoo, "keys", "list", SDB_MASTER_KEY="A" * 43)
    refused.assert_one_line("SDB_MASTER_KEY")
    assert "A" * 43 not in refused.err


def test_the_doctor_says_for_each_part_whether_the_server_would_start(
    tmp_path: Path, zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def doctor(**settings: str) -> Outcome:
        for name, value in settings.items():
            monkeypatch.setenv(f"SDB_{name}", value)
        return sdb_here("doctor", "--json")

    broken = tmp_path / "zoo" / "broken"
    broken.mkdir(parents=True)
    for file in (zoo / "tiny").iterdir():
        content = file.read_bytes()
        (broken / file.name).write_bytes(content[:-1] + b"\x00" if file.suffix == ".safetensors" else content)
    good = doctor(STATE_DIR=str(tmp_path / "a"), MODELS_DIR=str(zoo), DEVICE="cpu", ENGINE="eager")
    assert good.status == 0, good.out
    rows = {row["check"]: row for row in good.records}
    assert {"python", "settings", "secrets", "store", "device", "models", "model tiny"} <= rows.keys()
    assert {name for name, row in rows.items() if row["result"] != "ok"} == {"model tiny"}
    assert "DEMO" in rows["model tiny"]["detail"]
    assert rows["model tiny"]["remedy"]

    bad = doctor(STATE_DIR=str(tmp_path / "b"), MODELS_DIR=str(broken.parent), REDIS_URL="redis://127.0.0.1:1")
    assert (bad.status, bad.err) == (1, "")
    assert {row["check"] for row in bad.records if row["result"] == "fail"} == {"store", "model broken"}


def test_the_doctor_finds_a_state_folder_that_is_none_and_goes_on(
    tmp_path: Path, zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "var").write_text("no folder")
    monkeypatch.setenv("SDB_STATE_DIR", str(tmp_path / "var"))
    monkeypatch.setenv("SDB_MODELS_DIR", str(zoo))
    found = sdb_here("doctor", "--json")
    results = {row["check"]: row["result"] for row in found.records}
    assert (found.status, found.err) == (1, "")
    assert {"secrets", "store", "permissions", "model tiny"} == {name for name, is_ in results.items() if is_ == "fail"}
    assert results["device"] == "ok"


def test_a_model_is_found_by_the_name_it_gives_itself_whatever_its_folder_is_called(tmp_path: Path, zoo: Path) -> None:
    moved = tmp_path / "zoo" / "second-try"
    shutil.copytree(zoo / "tiny", moved)
    settings = Settings(models_dir=moved.parent)
    assert find(settings, "tiny")[0] == find_or_folder(settings, "tiny") == moved
    assert find_or_folder(settings, str(zoo / "tiny")) == zoo / "tiny"
    with pytest.raises(UnknownModel, match="second-try"):
        find(settings, "second-try")


def test_distill_refuses_a_device_that_is_none_before_it_asks_and_pays_a_server() -> None:
    asked = ("distill", "--model", "tiny", "--data", "images", "--out", "out", "--url", "http://127.0.0.1:1")
    sdb_here(*asked, "--device", "abacus").assert_one_line("abacus")


@pytest.mark.parametrize(
    ("host", "why"), [("a..b", "no host can be called so"), ("127.0.0.1", "SDB_PORT names another")]
)
def test_an_address_that_cannot_be_had_is_one_line(host: str, why: str) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        settings = Settings(host=host, port=other.getsockname()[1])
        with pytest.raises(ConfigurationError, match=why):
            listening(settings)


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
    attackers: Path, monkeypatch: pytest.MonkeyPatch, options: str, why: str
) -> None:
    monkeypatch.chdir(attackers)
    refused = sdb_here("evaluate", "--data", "images", *options.split())
    replace(refused, err=refused.err.lstrip("\n")).assert_one_line(why)  # a progress bar ends in an empty line
