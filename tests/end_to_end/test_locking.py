"""`sdb lock` as its user meets it: stopped with Ctrl-C, gone on with, served, unlocked by right and by key."""

import base64
import io
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from PIL import Image
from safetensors.torch import save_file
from sdb_client.transforms import Transform
from torch import nn

from models.backbones import Classifier, build
from models.data import LabelledImages, load
from models.lock import PixelLock, lock_transform
from models.matched import matched
from models.metrics import agreement, top1
from models.training.lock import plain_step
from models.training.loop import Recipe, predict, train
from tests.conftest import SECRET, Server, bearer, encode, free_port, start_server, until, write_shades
from tests.end_to_end.commands import ended, interrupted, start

pytestmark = pytest.mark.slow
CPU = torch.device("cpu")
SIDE = 16  # of the locked model's images
SHADES = ("black", "dark", "bright", "white")  # four: of two, a network that knows nothing may get any share right


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Image folders of the shades and the weights of an untrained network."""
    folder = tmp_path_factory.mktemp("workplace")
    write_shades(folder / "images", *SHADES, train=200, test=30)
    torch.manual_seed(0)
    save_file(build("cifar_resnet8", len(SHADES)).state_dict(), folder / "network.safetensors")
    return folder


def lock(folder: Path) -> subprocess.Popen[str]:
    command = "lock --arch cifar_resnet8 --weights network.safetensors --data images --out zoo/shades --held-out 100"
    return start(folder, f"{command} --size {SIDE} --negatives 1 --seed 1 --json")


@pytest.fixture(scope="module")
def locked(workplace: Path) -> dict[str, float]:
    """The metrics of a model that was stopped while it was locked, and gone on with."""
    first = lock(workplace)
    until((workplace / "runs" / "shades" / "lock.pt").exists, 400)
    assert "the same command goes on from there" in interrupted(first)
    assert not (workplace / "zoo" / "shades" / "bundle.json").exists()

    printed, _ = ended(lock(workplace), seconds=600)
    manifest = json.loads(printed)
    recipe = manifest["provenance"]["recipe"]
    assert (recipe["batch_size"], recipe["epochs"]) == (32, 32)  # 700 images, for which nobody said them
    metrics: dict[str, float] = manifest["metrics"]
    return metrics


@pytest.fixture(scope="module")
def server(workplace: Path, locked: dict[str, float]) -> Iterator[Server]:
    assert locked
    running = start_server(workplace / "var", workplace / "zoo", free_port())
    yield running
    running.process.terminate()
    running.process.wait(30)


def test_the_right_key_answers_right_and_wrong_ones_answer_by_chance(locked: dict[str, float]) -> None:
    assert locked["test_top1_right_key"] > 0.95
    assert locked["test_top1_no_key"] < 0.5
    assert locked["test_top1_wrong_keys_mean"] < 0.5


def right_answers(server: Server, images: dict[str, list[bytes]], headers: dict[str, str], query: str = "") -> float:
    """The share of images {label: files} that this caller is told the label of."""
    found: list[bool] = []
    for label, files in images.items():
        body = {"images": [base64.b64encode(file).decode() for file in files]}
        answer = httpx.post(f"{server.url}/v1/models/shades/predict{query}", json=body, headers=headers)
        assert answer.status_code == 200, answer.text
        found += [prediction["label"] == label for prediction in answer.json()["predictions"]]
    return sum(found) / len(found)


def key_with(server: Server, *scopes: str) -> dict[str, str]:
    body = {"name": "partner", "scopes": ["predict", *scopes], "budget": {"limit": 1000}}
    made = httpx.post(f"{server.url}/admin/v1/keys", json=body, headers=server.admin)
    assert made.status_code == 201, made.text
    return bearer(made.json()["api_key"])


def photographs(workplace: Path) -> dict[str, list[bytes]]:
    folder = workplace / "images" / "test"
    return {name: [(folder / name / f"{number}.png").read_bytes() for number in range(30)] for name in SHADES}


def test_who_may_unlock_gets_right_answers_and_nobody_else(server: Server, workplace: Path) -> None:
    images = photographs(workplace)
    assert right_answers(server, images, key_with(server, "unlock")) > 0.95
    assert right_answers(server, images, key_with(server, "distill")) < 0.5
    assert right_answers(server, images, {}) < 0.5


def test_who_holds_the_key_transforms_images_itself(server: Server, workplace: Path) -> None:
    unlock = start(workplace, "models unlock-key shades --out partner.key --json")
    printed, errors = ended(unlock, seconds=120)
    use = json.loads(printed)
    assert not errors
    key = base64.urlsafe_b64decode((workplace / "partner.key").read_text().strip() + "=")
    own = Transform.from_secret(key, kid=use["kid"], model=use["model"], steps=use["steps"], block=use["block"])
    images = {
        label: [encode(own.apply(np.asarray(Image.open(io.BytesIO(file)).resize((SIDE, SIDE))))) for file in files]
        for label, files in photographs(workplace).items()
    }
    assert right_answers(server, images, {}, "?encryption=lock") > 0.95


def three_classes(data: Path, split: str, share: float) -> LabelledImages:
    """Aeroplanes, cars and frogs of CIFAR-10, numbered 0 to 2."""
    found = load(data / "cifar10", split, 32, 32, share=share)
    chosen = [0, 1, 6]
    part = found.subset(torch.isin(found.labels, torch.tensor(chosen)).nonzero().flatten())
    labels = torch.tensor([chosen.index(label) for label in part.labels.tolist()])
    return LabelledImages(part.images, labels, tuple(found.classes[number] for number in chosen))


def test_a_transformer_that_was_trained_is_useless_without_the_key_it_was_matched_to(data: Path) -> None:
    training, test = three_classes(data, "train", 0.08), three_classes(data, "test", 0.1)
    torch.manual_seed(0)
    half = (0.5, 0.5, 0.5)
    backbone = build("cifar_vit", 3)
    fabric = Fabric(accelerator="cpu", devices=1)
    plain = train(fabric, Classifier(backbone, half, half), training, plain_step, Recipe(4, 0.03, 64), title="vit")
    key = PixelLock(lock_transform(SECRET, "t", ("shf", "np", "scramble"), 4), (3, 32, 32))
    locked = Classifier(matched(backbone, key.transform, half, half), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)).eval()
    known, own = predict(plain, test.images, CPU), predict(nn.Sequential(key, locked), test.images, CPU)
    assert top1(known, test.labels) > 0.6
    assert agreement(known, own) == 1
    assert (known - own).abs().max() < 1e-4
    assert top1(predict(locked, test.images, CPU), test.labels) < 0.5
