"""`sdb watch calibrate` writes nothing that it has not measured."""

from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from app.cli import app
from models.data import DataError
from models.watch import FILE
from tests.conftest import CLASSES, smooth_images


def test_images_of_other_classes_calibrate_nothing(zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for label in CLASSES[:2]:
        (tmp_path / "data" / "test" / label).mkdir(parents=True)
        Image.fromarray(smooth_images(1)[0].permute(1, 2, 0).numpy()).save(tmp_path / "data" / "test" / label / "0.png")
    monkeypatch.setenv("SDB_MODELS_DIR", str(zoo))
    monkeypatch.setenv("SDB_STATE_DIR", str(tmp_path / "var"))
    done = CliRunner().invoke(app, ["watch", "calibrate", "--model", "tiny", "--data", str(tmp_path / "data")])
    assert done.exit_code == 1
    assert isinstance(done.exception, DataError)
    assert "missing: bird" in str(done.exception)
    assert not (zoo / "tiny" / FILE).exists()
