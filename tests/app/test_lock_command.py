"""`sdb lock`, `sdb wrap --locked` and `sdb models` on a few small images: bundles, keys and refusals."""

import base64
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file
from sdb_client.transforms import Transform
from typer.testing import CliRunner

from app import cli
from app.settings import Settings
from app.state import State
from models import bundles
from models.backbones import build
from models.bundles import Manifest
from models.predictor import Predictor
from tests.conftest import encode, smooth_images

CPU = torch.device("cpu")
Json = dict[str, Any]
SMALL = "--arch plain_cnn --weights cnn.safetensors --data shades --size 16 --epochs 2 --batch-size 32 --device cpu"
STEM = "--arch cifar_resnet8 --weights resnet.safetensors --data shades --size 16 --epochs 1 --device cpu"


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of three brightnesses, and weights of three networks that nobody trained."""
    folder = tmp_path_factory.mktemp("material")
    for split, count in (("train", 360), ("test", 30)):
        labels = np.arange(count) % 3
        pixels = smooth_images(count, 32).permute(0, 2, 3, 1).numpy() // 3 + 80 * labels[:, None, None, None]
        table = pa.table({"image": [encode(image.astype(np.uint8)) for image in pixels], "label": labels})
        names = json.dumps(["dark", "grey", "bright"])
        pq.write_table(table.replace_schema_metadata({"class_names": names}), folder / f"shades_{split}.parquet")
    torch.manual_seed(0)
    transformer = build("cifar_vit", 3)
    torch.nn.init.normal_(transformer.get_parameter("heads.head.weight"))
    save_file(transformer.state_dict(), folder / "vit.safetensors")
    save_file(build("plain_cnn", 7).state_dict(), folder / "cnn.safetensors")
    save_file(build("cifar_resnet8", 7).state_dict(), folder / "resnet.safetensors")
    return folder


@pytest.fixture
def workplace(material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the material, and the settings of a deployment in it."""
    for file in material.iterdir():
        (tmp_path / file.name).symlink_to(file)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SDB_STATE_DIR", "var")
    monkeypatch.setenv("SDB_MODELS_DIR", "zoo")
    return tmp_path


def sdb(command: str) -> Any:  # noqa: ANN401 - whatever JSON it prints
    """What a command that must succeed prints with `--json`."""
    done = CliRunner().invoke(cli.app, [*command.split(), "--json"])
    assert done.exit_code == 0, (done.exception, done.stderr)
    return json.loads(done.stdout)


def refused(command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line in which a command fails."""
    monkeypatch.setattr(sys, "argv", ["sdb", *command.split()])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    out, err = capsys.readouterr()
    line = err.strip() if isinstance(stopped.value.code, int) else str(stopped.value.code)
    assert (out, "\n" in line) == ("", False)
    assert line.startswith("sdb: ")
    return line


@pytest.fixture
def locked(workplace: Path) -> Json:
    manifest: Json = sdb(f"lock {SMALL} --out {workplace / 'zoo' / 'shades'} --transform shf+np --wrong-keys 2")
    return manifest


def test_a_trained_lock_is_a_bundle_that_states_what_it_was_made_of(locked: Json, workplace: Path) -> None:
    manifest, _ = bundles.load(workplace / "zoo" / "shades")
    assert manifest == Manifest.model_validate(locked)
    assert manifest.guards == ("lock",)
    assert manifest.lock is not None
    assert (manifest.lock.steps, manifest.lock.block, manifest.lock.method) == (("shf", "np"), 4, "trained")
    assert manifest.input.mean == manifest.input.std == (0.5, 0.5, 0.5)
    assert manifest.metrics.keys() == {
        f"test_top1_{name}" for name in ("right_key", "no_key", "wrong_keys_mean", "wrong_keys_worst")
    }
    assert str(manifest.provenance["command"]).startswith("sdb")
    assert {"recipe", "refusal", "subset", "weights_sha256", "torch"} <= manifest.provenance.keys()
    assert [file.name for file in (workplace / "zoo" / "shades").iterdir() if file.suffix == ".key"] == []


def test_the_server_unlocks_with_the_secret_of_the_state_folder(locked: Json, workplace: Path) -> None:
    secret, public = State(Settings.from_environment()).model_secret("shades", workplace / "zoo" / "shades")
    assert not public
    served = Predictor(workplace / "zoo" / "shades", secret, CPU)
    pixels = smooth_images(4, 16).permute(0, 2, 3, 1).numpy()
    everybody = np.ones(4, np.bool_)
    assert np.abs(served(pixels, everybody, everybody) - served(pixels, everybody)).max() > 1e-3
    assert locked["name"] == "shades"


def test_a_share_of_the_images_and_a_comparison_without_the_lock(workplace: Path) -> None:
    manifest = sdb(f"lock {SMALL} --out zoo/part --subset 0.9 --compare --negatives 0 --wrong-keys 1")
    assert "test_top1_plain" in manifest["metrics"]
    assert manifest["provenance"]["images"] == 324 - 32
    assert manifest["provenance"]["refusal"]["share"] == 0
    assert (workplace / "runs" / "part" / "plain.pt").exists()


@pytest.mark.parametrize(
    ("options", "architecture", "recipe"),
    [
        ("", "cifar_resnet8+stem4", (1, 0.01)),
        ("--no-stem --learning-rate 0.02", "cifar_resnet8", (1, 0.02)),
        ("--transform np-each", "cifar_resnet8", (1, 0.05)),
    ],
)
def test_a_lock_has_a_stem_wherever_that_works(
    workplace: Path, options: str, architecture: str, recipe: tuple[int, float]
) -> None:
    manifest = sdb(f"lock {STEM} --out {workplace / 'zoo' / 'x'} --wrong-keys 1 {options}")
    assert manifest["architecture"] == architecture
    made = manifest["provenance"]["recipe"]
    assert (made["epochs"], made["learning_rate"]) == recipe


def test_a_lock_with_a_stem_is_served_and_states_what_its_weights_say_without_it(workplace: Path) -> None:
    manifest = sdb(f"lock {STEM} --out zoo/stemmed --wrong-keys 1")
    assert manifest["architecture"] == "cifar_resnet8+stem4"
    assert manifest["lock"] == {"steps": ["shf", "np"], "block": 4, "method": "trained"}
    assert manifest["input"]["mean"] == [0.5, 0.5, 0.5]
    assert manifest["provenance"]["input"]["mean"] == [0.485, 0.456, 0.406]
    assert manifest["provenance"]["labels"] == 0.3
    assert {f"test_top1_{name}" for name in ("plain", "without_stem", "public_layers_worst")} <= manifest[
        "metrics"
    ].keys()
    assert [row["result"] for row in sdb("models verify")] == ["ok"]
    secret, _ = State(Settings.from_environment()).model_secret("stemmed", workplace / "zoo" / "stemmed")
    pixels, everybody = smooth_images(4, 16).permute(0, 2, 3, 1).numpy(), np.ones(4, np.bool_)
    served = Predictor(workplace / "zoo" / "stemmed", secret, CPU)
    assert np.abs(served(pixels, everybody, everybody) - served(pixels, everybody)).max() > 1e-3


def test_a_matched_lock_answers_as_the_plain_model_and_trains_nothing(workplace: Path) -> None:
    manifest = sdb(
        "lock --match --arch cifar_vit --weights vit.safetensors --data shades --out zoo/vit "
        "--transform shf+np+scramble --device cpu --wrong-keys 2 --demo-secret"
    )
    assert manifest["lock"] == {"steps": ["shf", "np", "scramble"], "block": 4, "method": "matched"}
    assert manifest["metrics"]["test_agreement_right_key_plain"] == 1
    assert manifest["metrics"]["test_max_logit_difference"] < 1e-4
    assert manifest["metrics"]["test_top1_right_key"] == manifest["metrics"]["test_top1_plain"]
    assert (manifest["input"]["mean"], manifest["input"]["std"]) == ([0, 0, 0], [1, 1, 1])
    assert (workplace / "zoo" / "vit" / "demo.key").exists()
    assert [row["result"] for row in sdb("models verify")] == ["ok"]


def test_a_locked_bundle_is_boxed_with_its_lock_and_its_secret(locked: Json) -> None:
    boxed = sdb("wrap --locked zoo/shades --data shades --out boxed/shades --epochs 1 --batch-size 32 --device cpu")
    assert Manifest.model_validate(boxed).guards == ("sdb", "lock")
    assert boxed["lock"] == locked["lock"]
    assert boxed["guard"]["passes"] == 1
    assert boxed["guard"]["secret_fingerprint"] == locked["guard"]["secret_fingerprint"]
    assert boxed["metrics"]["test_agreement_unkeyed_keyed"] == 1
    assert "test_top1_wrong_keys_worst" in boxed["metrics"]
    assert boxed["metrics"]["test_top1_teacher_one_pass"] == locked["metrics"]["test_top1_right_key"]


def test_models_are_listed_shown_and_verified(locked: Json, workplace: Path) -> None:
    (row,) = sdb("models list")
    assert (row["name"], row["guards"], row["input"]) == ("shades", ["lock"], {"height": 16, "width": 16})
    assert sdb("models show shades") == {**locked, "guards": ["lock"]}
    (verified,) = sdb("models verify shades")
    assert verified["result"] == "ok"
    plain = CliRunner().invoke(cli.app, ["models", "list"])
    assert "shades" in plain.stdout
    assert "top1_right_key" in plain.stdout

    weights = workplace / "zoo" / "shades" / bundles.WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00")
    broken = CliRunner().invoke(cli.app, ["models", "verify", "--json"])
    assert broken.exit_code == 1
    assert "differs from the sha256" in json.loads(broken.stdout)[0]["detail"]


def test_the_unlock_key_lets_a_client_transform_images_itself(locked: Json, workplace: Path) -> None:
    use = sdb("models unlock-key shades --out partner.key")
    file = workplace / "partner.key"
    assert file.stat().st_mode & 0o777 == 0o600
    key = base64.urlsafe_b64decode(file.read_text().strip() + "=")
    secret, _ = State(Settings.from_environment()).model_secret("shades", workplace / "zoo" / "shades")
    assert len(key) == 32
    assert key != secret
    assert {name: use[name] for name in ("steps", "block")} == {"steps": locked["lock"]["steps"], "block": 4}

    own = Transform.from_secret(key, kid=use["kid"], model=use["model"], steps=use["steps"], block=use["block"])
    served = Predictor(workplace / "zoo" / "shades", secret, CPU)
    pixels, everybody = smooth_images(4, 16).permute(0, 2, 3, 1).numpy(), np.ones(4, np.bool_)
    np.testing.assert_allclose(
        served(own.apply(pixels), everybody), served(pixels, everybody, everybody), rtol=1e-4, atol=1e-4
    )


def test_what_models_cannot_do_is_one_line(
    zoo: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SDB_MODELS_DIR", str(zoo))
    assert "model tiny is not locked" in refused("models unlock-key tiny --out k", monkeypatch, capsys)
    assert "no model called big" in refused("models show big", monkeypatch, capsys)
    assert not (workplace / "k").exists()
    monkeypatch.setenv("SDB_MODELS_DIR", str(workplace))
    assert "no model bundle" in refused("models list", monkeypatch, capsys)


def test_a_key_file_is_never_overwritten(
    locked: Json, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (workplace / "partner.key").write_text("something else")
    assert "partner.key" in refused("models unlock-key shades --out partner.key", monkeypatch, capsys)
    assert (workplace / "partner.key").read_text() == "something else"
    assert locked["name"] == "shades"


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (f"lock {SMALL} --out zoo/x --transform rot13", "a step is one of: shf, np"),
        (f"lock {SMALL} --out zoo/x --block 5", "a block is one of: 2, 4, 8, 16"),
        (f"lock {SMALL} --out zoo/x --transform ffx+shf", "ffx"),
        (f"lock {SMALL} --out zoo/x --transform shf+shf", "twice"),
        (f"lock {SMALL} --out zoo/x --block 16 --size 24", "blocks of 16"),
        ("lock --arch plain_cnn --weights vit.safetensors --data shades --out zoo/x", "does not fit plain_cnn"),
        (f"lock --stem {SMALL} --out zoo/x", "PlainCnn takes no stem"),
        ("lock --match --arch plain_cnn --weights cnn.safetensors --data shades --out zoo/x", "does not fit plain_cnn"),
        (
            "lock --match --arch cifar_vit --weights vit.safetensors --data shades --out zoo/x --block 8",
            "the block is the patch, 4, not 8",
        ),
    ],
)
def test_a_lock_that_cannot_be_made_is_refused_in_one_line(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, why: str
) -> None:
    assert why in refused(command, monkeypatch, capsys)
    assert not (workplace / "zoo" / "x" / bundles.MANIFEST).exists()


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (f"lock {SMALL} --out zoo/x --mean 0 0 0", "go with --match or a stem"),
        (f"lock --stem {STEM} --out zoo/x --match", "trains nothing"),
        (f"lock {SMALL} --out zoo/X", "'X': small letters"),
        (f"wrap {SMALL} --out zoo/x --name a/b", "'a/b': small letters"),
        (f"lock --stem {STEM} --out zoo/x --transform shf-each", "undo the steps shf, np only"),
        ("wrap --data shades --out zoo/x", "--arch and --weights are needed"),
        ("wrap --locked zoo --arch plain_cnn --data shades --out zoo/x", "--locked brings"),
        (f"wrap {SMALL} --backbone cnn.safetensors --out zoo/x", "--backbone goes with --locked"),
    ],
)
def test_options_that_contradict_each_other_are_refused(workplace: Path, command: str, why: str) -> None:
    (workplace / "zoo").mkdir()
    done = CliRunner().invoke(cli.app, command.split(), env={"COLUMNS": "200"})
    assert (done.exit_code, done.stdout) == (2, "")
    assert why in done.stderr


def test_what_is_not_only_locked_is_not_boxed(workplace: Path, zoo: Path) -> None:
    command = f"wrap --locked {zoo / 'tiny'} --data shades --out zoo/x"
    done = CliRunner().invoke(cli.app, command.split(), env={"COLUMNS": "200"})
    assert done.exit_code == 2
    assert "made by `sdb lock`" in done.stderr
    assert not (workplace / "zoo").exists()


def test_a_box_around_a_lock_knows_what_the_lock_began_from(workplace: Path) -> None:
    mean = "--mean 0.1 0.2 0.3"
    assert sdb(f"lock {STEM} {mean} --out {workplace / 'zoo' / 'x'} --wrong-keys 1")["architecture"].endswith("+stem4")
    wrap = "wrap --locked zoo/x --data shades --epochs 1 --batch-size 32 --device cpu"
    boxed = sdb(f"{wrap} --out boxed/x")
    assert boxed["provenance"]["input"]["mean"] == [0.1, 0.2, 0.3]
    assert "test_top1_without_stem" in boxed["metrics"]
    assert "test_top1_public_layers_worst" not in boxed["metrics"], "whose layers nobody has given"

    known = sdb(f"{wrap} --backbone resnet.safetensors --out boxed/y --work runs/y")
    public = hashlib.sha256((workplace / "resnet.safetensors").read_bytes()).hexdigest()
    assert known["provenance"]["public_sha256"] == public
    assert "test_top1_public_layers_worst" in known["metrics"]
