"""A real attack through the real door is noticed and a customer is not; the owner of a model calibrates the watch."""

import json
import shutil
from pathlib import Path

import httpx
import pytest
import torch
from lightning_fabric import Fabric

from app.remote import RemoteModel
from app.settings import ZOO
from models.attacks import knockoff
from models.attacks.attacker import Attacker, Trainer
from models.attacks.oracle import Metered
from models.backbones import build
from models.bundles import load_manifest
from models.data import LabelledImages, load
from models.training.loop import Recipe
from models.watch import FILE, Reference
from tests.conftest import Server, serving
from tests.end_to_end.commands import ended, start

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
SENT = 1000


def some(images: LabelledImages, count: int = SENT) -> LabelledImages:
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return images.subset(order[:count])


def alarms(server: Server) -> list[dict[str, object]]:
    found = httpx.get(f"{server.url}/admin/v1/audit", headers=server.admin).json()["entries"]
    return [entry for entry in found if entry["action"] == "watch.alarm"]


def test_knockoff_nets_raises_the_alarm_within_a_thousand_images_and_a_customer_does_not(
    data: Path, tmp_path: Path
) -> None:
    own = some(load(data / "cifar10", "test", 32, 32, share=0.1))
    foreign = some(load(data / "tinyimagenet100", "train", 32, 32, share=0.05))
    with serving(tmp_path / "var", ZOO, SDB_WATCH="alarm", SDB_LOG_REQUESTS="false") as server:
        grant = {"name": "customer", "scopes": ["predict"]}
        key = httpx.post(f"{server.url}/admin/v1/keys", json=grant, headers=server.admin).json()
        answers = RemoteModel(server.url, "cifar10", key["api_key"]).query(own.images)
        assert (answers.argmax(1) == own.labels).float().mean() > 0.85
        assert alarms(server) == []
        door = Metered(RemoteModel(server.url, "cifar10", None))
        trainer = Trainer(Fabric(accelerator="cpu", devices=1), lambda: build("plain_cnn", 10), Recipe(1, 0.1), "thief")
        knockoff.steal(Attacker(door, foreign.images, None, None, trainer), use_probability=True)
        (alarm,) = alarms(server)
        assert alarm["target"] == "127.0.0.1"
        detail = alarm["detail"]
        assert isinstance(detail, dict)
        assert detail["model"] == "cifar10"
        assert detail["images"] <= door.queries <= SENT + 1


def test_an_owner_calibrates_the_watch_on_images_of_its_own(data: Path, tmp_path: Path) -> None:
    shutil.copytree(ZOO / "cifar10", tmp_path / "zoo" / "cifar10")
    (tmp_path / "zoo" / "cifar10" / FILE).unlink()
    command = "watch calibrate --model cifar10 --images 1000 --json"
    printed, _ = ended(start(tmp_path, command, "--data", str(data / "cifar10")), seconds=500)
    figures = json.loads(printed)
    assert 0.1 < figures["allowance"] < figures["surprise of blends"] < 0.5
    assert figures["threshold"] > 2 * max(figures["levels of customers"].values()) - 0.01
    manifest = load_manifest(tmp_path / "zoo" / "cifar10")
    reference = Reference.load(tmp_path / "zoo" / "cifar10", manifest)
    assert (reference.allowance, reference.threshold) == (figures["allowance"], figures["threshold"])
