"""What `app.ray.build` refuses before anything starts, and what it gives to Ray."""

import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from app.errors import ModelFailed
from app.hosting import Rows
from app.settings import SettingsError
from keys.errors import ConfigurationError
from keys.material import to_text, write_private
from models.bundles import BundleError, load_manifest
from tests.conftest import SECRET as MODEL_SECRET
from tests.keys.conftest import MASTER, SIGNING

ray = pytest.importorskip("ray", reason="needs the extra `ray`")
with warnings.catch_warnings(action="ignore"):  # of Ray's own modules, about themselves
    from ray.exceptions import RayTaskError

    from app.ray import build
    from app.replicas import ReplicatedModel

Arguments = dict[str, str]
PASSWORD = "hunter2-hunter2"


@pytest.fixture
def arguments(tmp_path: Path, zoo: Path) -> Arguments:
    for name, secret in (("master", MASTER), ("signing", SIGNING)):
        write_private(tmp_path / name, to_text(secret).encode())
    write_private(tmp_path / "store", f"redis://sdb:{PASSWORD}@store:6379".encode())
    return {
        "redis_url_file": str(tmp_path / "store"),
        "master_key_file": str(tmp_path / "master"),
        "token_keys_file": str(tmp_path / "signing"),
        "models_dir": str(zoo),
        "state_dir": str(tmp_path / "state"),
    }


@pytest.mark.parametrize(
    ("missing", "reason"),
    [
        ("redis_url_file", "share one store, and the embedded one has one owner"),
        ("master_key_file", "share one master_key"),
        ("token_keys_file", "share one token_keys"),
    ],
)
def test_what_replicas_must_share_must_be_given(arguments: Arguments, missing: str, reason: str) -> None:
    del arguments[missing]
    with pytest.raises(ConfigurationError, match=reason):
        build(arguments)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("master_key", to_text(MASTER)),
        ("token_keys", to_text(SIGNING)),
        ("redis_url", f"redis://sdb:{PASSWORD}@store:6379"),
        ("redis_url", f"redis://store:6379?password={PASSWORD}"),
    ],
)
def test_a_secret_is_no_argument(arguments: Arguments, name: str, value: str) -> None:
    del arguments[f"{name}_file"]
    with pytest.raises(ConfigurationError, match=f"give {name}_file") as refused:
        build(arguments | {name: value})
    assert value not in str(refused.value)


def test_an_address_without_a_password_is_one(arguments: Arguments) -> None:
    del arguments["redis_url_file"]
    assert build(arguments | {"redis_url": "redis://store:6379"})


def test_ray_is_given_no_secret(arguments: Arguments) -> None:
    given = ray.cloudpickle.dumps(build(arguments))
    assert arguments["master_key_file"].encode() in given, "it is told where they are"
    for secret in (MASTER, SIGNING, MODEL_SECRET):
        assert secret not in given
        assert to_text(secret).encode() not in given
    assert PASSWORD.encode() not in given


class Broken:
    """The handle of a replica whose model breaks off, as Ray tells of it."""

    async def remote(self, rows: Rows) -> None:
        error: Any = RayTaskError  # which has no types
        raise error("answer", "File /srv/replica.py", ModelFailed(f"{len(rows)} rows")).as_instanceof_cause()


async def test_a_replica_whose_model_breaks_off_tells_callers_nothing_of_itself(zoo: Path) -> None:
    handle: Any = SimpleNamespace(answer=Broken())
    model = ReplicatedModel(load_manifest(zoo / "tiny"), handle)
    with pytest.raises(ModelFailed) as failure:
        await model.submit(Rows(np.zeros((1, 32, 32, 3), np.uint8), keyed=False))
    assert str(failure.value) == "the model failed; the log of its replica says how"


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("model_gpus", "-1", ValidationError),
        ("ingress_min", "0", ValidationError),
        ("replicas", "3", SettingsError),
        ("models_dir", "/nowhere", BundleError),
    ],
)
def test_an_argument_without_meaning_is_refused(
    arguments: Arguments, name: str, value: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        build(arguments | {name: value})
