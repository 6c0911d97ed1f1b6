"""`sdb trace`: answers that a key was given, and a student of them, are traced to the key; others are to none."""

import asyncio
import csv
import json
from collections.abc import Awaitable, Callable
from itertools import count
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from sdb_client.fitting import Pixels
from torch.nn import functional as F

from app.settings import Settings
from keys import lifecycle, tracing
from models.backbones import build
from tests.app.oip import infer, outputs, pixels
from tests.app.processes import Json, Outcome, sdb_here
from tests.conftest import CLASSES, Api, bearer, encode, smooth_images

FEW, MANY, KEYS = 300, 1500, 50
Floats = NDArray[np.float32]
Trace = Callable[..., Awaitable[Outcome]]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"max_body_bytes": 2**20})


@pytest.fixture(autouse=True)
def drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same marks in every run: how strong the evidence is depends on them."""
    number, generation = count(), count(1)
    monkeypatch.setattr(lifecycle, "random_base62", lambda length: f"{next(number):0{length}}")
    monkeypatch.setattr(tracing, "token_bytes", lambda size: bytes([next(generation)]) * size)


def parquet(path: Path, images: Pixels) -> None:
    columns = {"image": [encode(image) for image in images], "label": [number % 10 for number in range(len(images))]}
    named = pa.table(columns).replace_schema_metadata({"class_names": json.dumps(CLASSES)})
    pq.write_table(named, path.with_name(f"{path.name}_test.parquet"))


def shown(number: int) -> Pixels:
    """Images uint8 [N, 32, 32, 3]."""
    return smooth_images(number, 32, seed=9).permute(0, 2, 3, 1).contiguous().numpy()


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "few"
    parquet(path, shown(FEW))
    return path


@pytest.fixture
def trace(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trace:
    """`sdb trace` in this process, beside the server of `settings`."""
    monkeypatch.setenv("SDB_STATE_DIR", str(settings.state_dir))
    monkeypatch.setenv("SDB_MODELS_DIR", str(settings.models_dir))
    monkeypatch.chdir(tmp_path)

    async def run(suspect: object, data: Path, *options: str) -> Outcome:
        asked = ("--suspect", str(suspect), "--model", "tiny", "--data", str(data), "--device", "cpu", "--json")
        return await asyncio.to_thread(sdb_here, "trace", *asked, *options)

    return run


async def told(api: Api, images: Pixels, key: dict[str, str]) -> Floats:
    """The soft labels that a key holder is given: logits float32 [N, K]."""
    chunks = []
    for start in range(0, len(images), 250):
        part = pixels(images[start : start + 250])
        answer = await infer(api, *part, bearer(key["api_key"]), parameters={"binary_data_output": True})
        chunks.append(outputs(answer)["logits"])
    return np.concatenate(chunks)


async def leak(api: Api, images: Pixels, others: int = KEYS - 1, **grant: object) -> tuple[dict[str, str], Floats]:
    """One key of many, and what it was told."""
    for number in range(others):
        await api.issue(name=f"partner {number}")
    key = await api.issue(10_000, name="the <leak>", **grant)
    return key, await told(api, images, key)


def softmax(logits: Floats) -> Floats:
    return F.softmax(torch.from_numpy(logits), 1).numpy()


def written(path: Path, answers: Floats) -> Path:
    """A file of answers with four decimals."""
    lines = [[number, *np.round(row, 4)] for number, row in enumerate(answers)]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["image", *CLASSES], *lines])
    return path


def student(images: Pixels, labels: Floats) -> Floats:
    """What kernel ridge regression on thumbnails, a student in one step, says of its images: probabilities [N, K]."""
    thumbnails = F.adaptive_avg_pool2d(torch.from_numpy(images).permute(0, 3, 1, 2).double() / 255, 8).flatten(1)
    distances = torch.cdist(thumbnails, thumbnails) ** 2
    kernel = torch.exp(-distances / distances.median())
    weights = torch.linalg.solve(kernel + 0.01 * torch.eye(len(kernel)), torch.from_numpy(labels).double())
    return softmax((kernel @ weights).float().numpy())


def named(document: Json) -> list[tuple[str, int]]:
    return [(finding["key_id"], finding["generation"]) for finding in document["findings"] if finding["named"]]


async def test_soft_labels_that_were_passed_on_name_the_key_that_got_them(
    api: Api, trace: Trace, few: Path, tmp_path: Path
) -> None:
    key, labels = await leak(api, shown(FEW), 19, mark=1)
    found = await trace(written(tmp_path / "answers.csv", softmax(labels)), few, "--out", "report")
    document = found.record
    assert (found.status, named(document)) == (0, [(key["id"], 1)])
    assert document["verdict"] == f"{key['id']} (the <leak>)"
    assert (document["keys"], len(document["findings"]), document["images"]) == (20, 20, FEW)
    assert document["since"].keys() == {f"{key['id']}/1"}, "the others were never answered"
    assert json.loads((tmp_path / "report" / "trace.json").read_text()) == document
    page = (tmp_path / "report" / "trace.html").read_text()
    assert "the &lt;leak&gt;" in page
    assert "<leak>" not in page
    assert "<script" not in page
    for secret in (key["api_key"], api.admin_key, (tmp_path / "var" / "master_key").read_text().strip()):
        assert secret not in page + found.out + found.err


@pytest.mark.slow
async def test_a_revoked_key_is_traced_under_a_secret_that_was_replaced(
    api: Api, trace: Trace, few: Path, tmp_path: Path
) -> None:
    key, labels = await leak(api, shown(FEW), 3, mark=1)
    path = written(tmp_path / "answers.csv", softmax(labels))
    revoked = await api.client.post(f"/admin/v1/keys/{key['id']}/revoke", headers=api.admin)
    assert revoked.status_code == 200
    made = await asyncio.to_thread(sdb_here, "keys", "new-tracing-secret", "--json")
    assert made.record == {"generation": 2}
    document = (await trace(path, few)).record
    assert (named(document), len(document["findings"])) == ([(key["id"], 1)], 8)
    other = next(finding["key_id"] for finding in document["findings"] if finding["key_id"] != key["id"])
    innocent = await trace(path, few, "--keys", other)
    assert (innocent.status, innocent.record["verdict"], innocent.record["keys"]) == (1, "no key", 1)


@pytest.mark.slow
async def test_answers_without_a_mark_name_nobody(api: Api, trace: Trace, few: Path, tmp_path: Path) -> None:
    _, labels = await leak(api, shown(FEW), 9, mark=0)
    await api.app.state.services.keys.tracing.newest()
    found = await trace(written(tmp_path / "answers.csv", softmax(labels)), few)
    assert (found.status, named(found.record), found.record["verdict"]) == (1, [], "no key")
    assert "No key is named" in (tmp_path / "runs" / "trace" / "tiny" / "trace.html").read_text()


@pytest.mark.slow
async def test_labels_alone_are_the_top_1_mode_and_a_reference_needs_more(
    api: Api, trace: Trace, few: Path, tmp_path: Path
) -> None:
    _, labels = await leak(api, shown(FEW), 3)
    top1 = tmp_path / "top1.csv"
    top1.write_text("image,label\n" + "".join(f"{n},{label}\n" for n, label in enumerate(labels.argmax(1))))
    by_file = await trace(top1, few)
    answers = written(tmp_path / "answers.csv", softmax(labels))
    by_option = await trace(answers, few, "--top1", "--reference", str(answers))
    for found in (by_file, by_option):
        assert (found.status, found.record["answers"]) == (1, "top-1"), "top-1 bears no mark"
    assert by_option.record["references"] == ["answers.csv"]
    assert (await trace(answers, few, "--reference", str(top1))).status == 2


def assert_refused(found: Outcome, text: str) -> None:
    """It failed with a line on standard error, below what progress bars leave there."""
    assert (found.status, found.out) == (1, ""), found
    (line,) = found.err.split("\n\n")[-1].strip().splitlines()
    assert line.startswith("sdb: ")
    assert text in line


async def test_what_cannot_be_asked_is_one_line(api: Api, trace: Trace, few: Path, tmp_path: Path) -> None:
    answers = written(tmp_path / "answers.csv", np.full((FEW, 10), 0.1, np.float32))
    assert_refused(await trace(answers, few), "no client key")
    await leak(api, shown(1), 0)
    assert_refused(await trace(answers, few, "--keys", "key_none"), "key_none")
    assert_refused(await trace(answers, few, "--model", "other"), "no model called other")
    assert_refused(await trace(tmp_path / "none.csv", few), "none.csv")
    assert_refused(await trace("http://127.0.0.1:9", few), "127.0.0.1:9")
    part = tmp_path / "part.csv"
    part.write_text("".join(answers.read_text().splitlines(keepends=True)[:9]))
    assert_refused(await trace(answers, few, "--reference", str(part)), "part.csv says nothing of image")
    for suspect in (tmp_path, tmp_path / "student.safetensors"):
        assert (await trace(suspect, few)).status == 2, "no bundle, and weights without --arch"


@pytest.mark.slow
async def test_weights_and_bundles_are_asked_in_this_process(
    api: Api, trace: Trace, few: Path, zoo: Path, tmp_path: Path
) -> None:
    await leak(api, shown(1), 0)
    save_file(build("plain_cnn", 10).state_dict(), tmp_path / "student.safetensors")
    untrained = await trace("student.safetensors", few, "--arch", "plain_cnn", "--images", "100")
    assert (untrained.status, untrained.record["images"]) == (1, 100)
    assert untrained.record["suspect"] == {"kind": "weights", "name": "student.safetensors"}
    bundle = await trace(zoo / "tiny", few, "--images", "100")
    assert (bundle.status, bundle.record["suspect"]) == (1, {"kind": "bundle", "name": "tiny"})


@pytest.mark.slow
async def test_a_student_is_traced_to_the_key_it_learned_from_and_an_innocent_one_to_none(
    api: Api, trace: Trace, tmp_path: Path
) -> None:
    images = shown(MANY)
    parquet(tmp_path / "many", images)
    thief, labels = await leak(api, images, KEYS - 2, mark=1)
    honest = await told(api, images, await api.issue(10_000, mark=0))
    found = await trace(written(tmp_path / "thief.csv", student(images, labels)), tmp_path / "many")
    assert (found.status, named(found.record), found.record["keys"]) == (0, [(thief["id"], 1)], KEYS)
    innocent = await trace(written(tmp_path / "honest.csv", student(images, honest)), tmp_path / "many")
    assert (innocent.status, named(innocent.record)) == (1, [])
