"""`sdb evaluate` as its user meets it: a bundle and a live server attacked, stopped with Ctrl-C, gone on with."""

import json
from pathlib import Path

import httpx
import pytest
import torch
from markupsafe import escape
from safetensors.torch import save_file

from app.errors import RemoteError
from app.remote import RemoteModel, under_attack
from app.settings import Settings
from app.state import State
from models.attacks.oracle import TierOracle
from models.backbones import build
from models.predictor import Predictor
from tests.conftest import SECRET, Server, free_port, smooth_images, start_server, until, write_shades
from tests.end_to_end.commands import ended, interrupted, start


def issue(server: Server, limit: int, *scopes: str) -> str:
    grant = {"name": "auditor", "scopes": ["predict", *scopes], "budget": {"limit": limit}, "mark": 0}
    answer = httpx.post(f"{server.url}/admin/v1/keys", json=grant, headers=server.admin)
    return str(answer.json()["api_key"])


def test_the_network_changes_nothing_in_the_answers(server: Server, zoo: Path) -> None:
    """What an attacker is told over HTTP is what the same tier of the same deployment says in this process."""
    state = State(Settings(state_dir=server.state_dir, models_dir=zoo))
    here = Predictor(zoo / "tiny", SECRET, torch.device("cpu"), state.deployment)
    images = smooth_images(120, seed=11)
    subject = under_attack(server.url, "tiny", issue(server, 120, "distill"))
    assert subject.doors.authorised is not None
    for door, keyed in ((subject.doors.public, False), (subject.doors.authorised, True)):
        torch.testing.assert_close(
            door.query(images), TierOracle(here, keyed=keyed).query(images), rtol=1e-3, atol=1e-3
        )
    with pytest.raises(RemoteError, match="quota-exceeded"):
        subject.doors.authorised.query(images[:1])


def test_a_server_that_cannot_be_attacked_says_why(server: Server) -> None:
    with pytest.raises(RemoteError, match="unknown-model"):
        under_attack(server.url, "nothing", None)
    with pytest.raises(RemoteError, match="invalid-credential"):
        under_attack(server.url, "tiny", "sdb_cli_nonsense")
    with pytest.raises(RemoteError, match="distill"):
        under_attack(server.url, "tiny", issue(server, 1))
    with pytest.raises(RemoteError, match="does not answer"):
        RemoteModel(f"http://127.0.0.1:{free_port()}", "tiny", None).card()


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    """An image folder of two classes, dark and bright, and the weights of an untrained teacher."""
    write_shades(tmp_path / "images", "dark", "bright", train=400, test=60)
    torch.manual_seed(0)
    save_file(build("cifar_resnet8", 2).state_dict(), tmp_path / "teacher.safetensors")
    return tmp_path


@pytest.mark.slow
def test_a_wrapped_model_is_attacked_here_and_over_the_network(workplace: Path) -> None:
    """Each kind of arm on a small model: stopped with Ctrl-C after a few rows, gone on with, then over HTTP."""
    wrap = "wrap --arch cifar_resnet8 --weights teacher.safetensors --data images --out zoo/shades --held-out 200"
    ended(start(workplace, f"{wrap} --teacher-epochs 3 --epochs 2 --batch-size 32"), seconds=600)

    evaluate = "evaluate --model shades --data images --images 300 --epochs 2 --seeds 0"
    weights = "--teacher runs/shades/teacher.safetensors --backbone teacher.safetensors"
    some = "ref*,key*,thief*,attack:?hard*,attack:?ridge*,attack:?mixing*,attack:?class*,attack:?Knockoff*"
    here = f"{evaluate} {weights} --foreign images --arms {some} --json"
    first = start(workplace, here)
    rows = workplace / "runs" / "evaluate" / "shades" / "rows"
    until(lambda: len(list(rows.glob("*.json"))) >= 3, 300)  # of training, beside other tests
    interrupted(first)
    kept = {path: path.stat().st_mtime_ns for path in rows.glob("*.json")}
    assert len(kept) >= 3

    printed, _ = ended(start(workplace, here), seconds=1500)
    assert all(path.stat().st_mtime_ns == changed for path, changed in kept.items()), "no row was made twice"
    verdicts = json.loads(printed)
    report = json.loads((rows.parent / "report.json").read_text())
    assert [verdict["promise"] for verdict in verdicts] == [verdict["promise"] for verdict in report["verdicts"]]
    assert {row["group"] for row in report["rows"]} == {"reference", "key holder", "attack", "thief"}
    assert {row["holdings"] for row in report["rows"]} == {"labelled", "unlabelled", "out of distribution"}
    assert {tier["name"] for tier in report["tiers"]} == {"teacher", "teacher, as many passes", "authorised", "public"}
    assert report["weights"]["right"]["top1"] > 0.8
    page = (rows.parent / "report.html").read_text()
    assert all(str(escape(verdict["promise"])) in page for verdict in verdicts)

    server = start_server(workplace / "var", workplace / "zoo", free_port())
    try:
        (workplace / "auditor.key").write_text(issue(server, 5000, "distill"))
        remote = (
            f"{evaluate} --url {server.url} --token auditor.key --arms attack:*hard*,attack:*ridge*,key*one* --out http"
        )
        ended(start(workplace, remote), seconds=600)
    finally:
        server.process.terminate()
        server.process.wait(30)
    same = {(row["name"], row["holdings"], row["share"]): row["test_top1"] for row in report["rows"]}
    for row in json.loads((workplace / "http" / "report.json").read_text())["rows"]:
        here_top1 = same[row["name"], row["holdings"], row["share"]]
        assert abs(row["test_top1"] - here_top1) < 0.1, row["name"]


@pytest.mark.slow
def test_a_locked_model_is_attacked_with_a_public_backbone(workplace: Path) -> None:
    """`sdb lock`, then `sdb evaluate` by the bundle's name, with all the budgets of a thief made small."""
    lock = "lock --arch cifar_resnet8 --weights teacher.safetensors --data images --out zoo/shades --held-out 200"
    ended(start(workplace, f"{lock} --transform np --block 4 --epochs 4 --batch-size 32"), seconds=600)
    evaluate = "evaluate --model shades --data images --backbone teacher.safetensors --images 150 --seeds 0 --json"
    budgets = "--wrong-keys 5 --key-images 60 --search-keys 8 --sweeps 1 --descent-steps 5 --arms thief*?100?labels"
    printed, _ = ended(start(workplace, f"{evaluate} {budgets}"), seconds=900)
    promises = [verdict["promise"] for verdict in json.loads(printed)]
    assert "lock: worst of 5 random keys minus chance" in promises
    assert "lock: hill climbing minus chance" in promises
    assert "stolen weights minus a public backbone, fine-tuned on 100 labels" in promises
    report = json.loads((workplace / "runs" / "evaluate" / "shades" / "report.json").read_text())
    assert report["lock"]["figures"][0]["as_answered"] > 80
    assert {row["group"] for row in report["rows"]} == {"thief"}
