"""`sdb wrap` as its user meets it: stopped with Ctrl-C, gone on with, and served."""

import json
import subprocess
from pathlib import Path

import httpx
import pytest
import torch
from safetensors.torch import save_file

from models.backbones import build
from tests.conftest import free_port, start_server, until, write_shades
from tests.end_to_end.commands import ended, interrupted, start

pytestmark = pytest.mark.slow


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    """An image folder of two classes, dark and bright, and the weights of an untrained teacher of three others."""
    write_shades(tmp_path / "images", "dark", "bright", train=400, test=60)
    torch.manual_seed(0)
    save_file(build("cifar_resnet8", 3).state_dict(), tmp_path / "teacher.safetensors")
    return tmp_path


def wrap(folder: Path, *options: str) -> subprocess.Popen[str]:
    command = "wrap --arch cifar_resnet8 --weights teacher.safetensors --data images --out zoo/shades --held-out 200"
    teacher, training = ("--teacher-epochs", "3"), ("--epochs", "4", "--batch-size", "32")
    return start(folder, command, *teacher, *training, "--json", *options)


def test_a_wrapped_model_survives_ctrl_c_and_is_served(workplace: Path) -> None:
    first = wrap(workplace)
    until((workplace / "runs" / "shades" / "box.pt").exists, 120)
    assert "the same command goes on from there" in interrupted(first)
    assert not (workplace / "zoo" / "shades" / "bundle.json").exists()

    printed, _ = ended(wrap(workplace), seconds=600)
    manifest = json.loads(printed)
    assert manifest["classes"] == ["bright", "dark"]
    assert manifest["metrics"]["test_top1_keyed"] > 0.9
    assert not list((workplace / "zoo").rglob("*.key")), "the secret is sealed in the state folder"

    server = start_server(workplace / "var", workplace / "zoo", free_port())
    try:
        photo = (workplace / "images" / "test" / "bright" / "0.png").read_bytes()
        answer = httpx.post(f"{server.url}/v1/models/shades/predict", content=photo).json()
        assert answer["predictions"][0]["label"] == "bright"
    finally:
        server.process.terminate()
        server.process.wait(30)


def test_what_cannot_be_wrapped_is_said_in_one_line(workplace: Path) -> None:
    (workplace / "teacher.safetensors").write_bytes(b"nothing")
    printed, errors = ended(wrap(workplace), seconds=120, status=1)
    assert printed == ""
    assert errors.strip().splitlines()[-1].startswith("sdb: teacher.safetensors does not fit cifar_resnet8")
    assert "Traceback" not in errors


def test_a_head_for_other_classes_is_not_thrown_away_unasked(workplace: Path) -> None:
    _, errors = ended(wrap(workplace, "--teacher-epochs", "0"), seconds=120, status=1)
    assert errors.strip().splitlines()[-1].startswith("sdb: teacher.safetensors does not fit cifar_resnet8")
    assert not (workplace / "runs").exists()


def test_several_processes_train_one_box(workplace: Path) -> None:
    """As several GPUs would: each takes its share of every batch."""
    printed, _ = ended(wrap(workplace, "--device", "cpu", "--devices", "2"), seconds=600)
    assert json.loads(printed)["metrics"]["test_top1_keyed"] > 0.9
