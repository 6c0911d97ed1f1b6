"""`sdb distill` as a partner meets it: with a key and a folder of images, stopped, short of budget, and finished."""

import json
import signal
import subprocess
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

from models.backbones import build
from tests.client.partners import Partner, partner
from tests.conftest import CLASSES, SDB, Server, encode, smooth_images, until

TRAINING = 60
pytestmark = pytest.mark.slow  # the guide to distilling runs by default


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Parquet with the classes of the model."""
    path = tmp_path_factory.mktemp("images") / "small"
    for split, seed, count in (("train", 0, TRAINING), ("test", 1, 20)):
        pixels = smooth_images(count, seed=seed).permute(0, 2, 3, 1).numpy()
        columns = {"image": [encode(image) for image in pixels], "label": [number % 10 for number in range(count)]}
        named = pa.table(columns).replace_schema_metadata({"class_names": json.dumps(CLASSES)})
        pq.write_table(named, path.with_name(f"{path.name}_{split}.parquet"))
    return path


def distill(holder: Partner, folder: Path, images: Path, *options: str) -> subprocess.Popen[str]:
    """`sdb distill` in `folder`, with the key on standard input."""
    asked = f"distill --model tiny --url {holder.server.url} --token - --data {images} --out student --device cpu"
    process = subprocess.Popen(  # noqa: S603 - ours
        [SDB, *asked.split(), "--arch", "plain_cnn", "--epochs", "2", "--json", *options],
        cwd=folder,
        env={"OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write(holder.key["api_key"] + "\n")
    process.stdin.close()
    process.stdin = None
    return process


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=100)
    return process.returncode, out, err


def test_a_student_is_distilled_stopped_or_not_and_no_image_is_paid_for_twice(
    server: Server, images: Path, tmp_path: Path
) -> None:
    with partner(server, 40) as holder:
        status, printed, errors = ended(distill(holder, tmp_path, images))
        assert (status, printed) == (1, "")
        assert errors.strip().splitlines()[-1].startswith("sdb: the budget is spent: 40 of 60 images are labelled")
        holder.top_up(100)
        first = distill(holder, tmp_path, images, "--epochs", "400")
        until((tmp_path / "student" / "distilled.pt").exists, 60)
        first.send_signal(signal.SIGINT)
        status, printed, errors = ended(first)
        assert (status, printed) == (130, "")
        assert "the same command goes on from there" in errors
        assert holder.charged == TRAINING
        for file in (tmp_path / "student").glob("*.pt"):
            file.unlink()
        status, printed, errors = ended(distill(holder, tmp_path, images))
        assert status == 0, errors
        assert [row["student"] for row in json.loads(printed)] == ["distilled", "alone"]
        assert holder.charged == TRAINING
        assert holder.key["api_key"] not in printed + errors
    build("plain_cnn", 10).load_state_dict(load_file(tmp_path / "student" / "backbone.safetensors"))
    assert "<h1>Distillation</h1>" in (tmp_path / "student" / "report.html").read_text()


def test_an_estimate_costs_nothing_and_a_key_without_the_scope_is_refused(
    server: Server, images: Path, tmp_path: Path
) -> None:
    with partner(server, 50) as holder, partner(server, scopes=["predict"]) as stranger:
        asked, refused = distill(holder, tmp_path, images, "--estimate"), distill(stranger, tmp_path, images)
        status, printed, _ = ended(asked)
        assert status == 0
        estimate = json.loads(printed)
        assert (estimate["images"], estimate["cost"], estimate["remaining"], estimate["enough"]) == (60, 60, 50, False)
        assert holder.charged == 0
        status, printed, errors = ended(refused)
        assert (status, printed) == (1, "")
        assert errors.strip().splitlines()[-1] == "sdb: the key has no scope distill for tiny"
