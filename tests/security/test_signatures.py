"""A server that trusts some signers loads what one of them has signed, as it was signed, and nothing else."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.hosting import load_model
from app.settings import Settings, SettingsError
from app.state import State
from keys.material import to_text
from models import bundles
from models.bundles import BundleError
from models.predictor import choose_devices
from models.signatures import public_key, signed, signer_of
from tests.app.processes import sdb_here
from tests.conftest import SECRET

OURS, THEIRS = bytes(range(32)), bytes(range(1, 33))
TRUSTED = (public_key(OURS),)
# RFC 8032 §7.1, test 1: another implementation's key pair.
RFC_SEED = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
RFC_PUBLIC = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"


@pytest.fixture
def bundle(zoo: Path, tmp_path: Path) -> Path:
    """A bundle that we have signed."""
    folder = Path(shutil.copytree(zoo / "tiny", tmp_path / "zoo" / "tiny"))
    bundles.sign(folder, OURS)
    return folder


def changed_manifest(folder: Path) -> None:
    path = folder / bundles.MANIFEST
    manifest = json.loads(path.read_bytes())
    path.write_text(json.dumps({**manifest, "guard": {**manifest["guard"], "release_scale": 0.001}}))


def changed_weights(folder: Path) -> None:
    """Other weights, and a manifest that has their hash."""
    manifest, tensors = bundles.load(folder)
    bundles.save(folder, manifest, {name: tensor * 2 for name, tensor in tensors.items()}, SECRET)


def other_calibration(folder: Path) -> None:
    """An extraction watch that suspects nobody."""
    bundles.attach(folder, "watch.json", b"{}")


def foreign(folder: Path) -> None:
    (folder / bundles.SIGNATURES).unlink()
    bundles.sign(folder, THEIRS)


def for_another_purpose(folder: Path) -> None:
    """The same bytes signed with our key, as another program would sign them."""
    signature = Ed25519PrivateKey.from_private_bytes(OURS).sign((folder / bundles.MANIFEST).read_bytes())
    (folder / bundles.SIGNATURES).write_text(f"{TRUSTED[0]} {to_text(signature)}\n")


FAULTS: dict[str, Callable[[Path], object]] = {
    "unsigned": lambda folder: (folder / bundles.SIGNATURES).unlink(),
    "no signature in the file": lambda folder: (folder / bundles.SIGNATURES).write_bytes(b"\xff\n\n a b c\n"),
    "a signer without a signature": lambda folder: (folder / bundles.SIGNATURES).write_text(TRUSTED[0]),
    "signed by somebody else": foreign,
    "somebody else's signature under our name": lambda folder: (folder / bundles.SIGNATURES).write_text(
        f"{TRUSTED[0]} {signed((folder / bundles.MANIFEST).read_bytes(), THEIRS).split()[1]}\n"
    ),
    "another manifest": changed_manifest,
    "other weights": changed_weights,
    "another calibration of the watch": other_calibration,
    "signed as something else": for_another_purpose,
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_what_is_not_signed_by_one_who_is_trusted_is_refused(bundle: Path, fault: Callable[[Path], object]) -> None:
    assert bundles.load_manifest(bundle, TRUSTED).name == "tiny"
    fault(bundle)
    with pytest.raises(BundleError, match="SDB_BUNDLE_SIGNERS"):
        bundles.load_manifest(bundle, TRUSTED)
    assert bundles.load_manifest(bundle).name == "tiny"  # who asks for no signer gets no check


def test_a_bundle_may_have_several_signers_each_once(bundle: Path) -> None:
    for seed in (THEIRS, OURS, THEIRS):
        bundles.sign(bundle, seed)
    assert len((bundle / bundles.SIGNATURES).read_text().splitlines()) == 2
    for seed in (OURS, THEIRS):
        bundles.load_manifest(bundle, (public_key(seed),))


@pytest.mark.parametrize("name", [bundles.WEIGHTS, "watch.json"])
def test_a_damaged_bundle_is_not_signed(bundle: Path, name: str) -> None:
    bundles.attach(bundle, "watch.json", b"{}")
    with (bundle / name).open("ab") as file:
        file.write(b"\0")
    with pytest.raises(BundleError, match=f"{name} differs from the sha256"):
        bundles.sign(bundle, OURS)


def test_what_is_attached_is_signed_with_the_rest(bundle: Path) -> None:
    bundles.attach(bundle, "watch.json", b"{}")
    bundles.sign(bundle, OURS)
    assert bundles.intact(bundle, bundles.load_manifest(bundle, TRUSTED), "watch.json") == b"{}"


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/b", ".hidden"])
def test_a_manifest_names_files_of_its_own_folder_alone(bundle: Path, name: str) -> None:
    manifest = json.loads((bundle / bundles.MANIFEST).read_bytes())
    (bundle / bundles.MANIFEST).write_text(json.dumps({**manifest, "sha256": {name: "0" * 64}}))
    with pytest.raises(BundleError, match="pattern"):
        bundles.load_manifest(bundle)


def test_keys_are_those_of_the_standard() -> None:
    assert public_key(RFC_SEED) == RFC_PUBLIC
    assert signer_of(b"{}", signed(b"{}", RFC_SEED), [RFC_PUBLIC]) == RFC_PUBLIC


def test_a_server_with_signers_does_not_load_what_they_have_not_signed(bundle: Path, settings: Settings) -> None:
    devices, state = choose_devices("cpu"), State(settings)
    trusting = settings.model_copy(update={"models_dir": bundle.parent, "bundle_signers": TRUSTED})
    assert load_model(bundle, devices, trusting, state).manifest.name == "tiny"
    with pytest.raises(BundleError, match="signed by none"):
        load_model(bundle, devices, trusting.model_copy(update={"bundle_signers": (public_key(THEIRS),)}), state)


@pytest.mark.parametrize("signers", ["short", "A" * 44, f"{TRUSTED[0]} /", "=" * 43])
def test_a_signer_that_cannot_be_one_is_a_mistake_of_the_operator(signers: str) -> None:
    with pytest.raises(SettingsError, match="SDB_BUNDLE_SIGNERS"):
        Settings.from_environment({"SDB_BUNDLE_SIGNERS": signers})
    assert Settings.from_environment({"SDB_BUNDLE_SIGNERS": f"{TRUSTED[0]}, {RFC_PUBLIC}"}).bundle_signers


def test_models_are_signed_and_verified_on_the_command_line(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SDB_STATE_DIR", str(tmp_path / "var"))
    monkeypatch.setenv("SDB_MODELS_DIR", str(bundle.parent))
    key = tmp_path / "signer.key"
    made = sdb_here("models", "sign", "tiny", "--key", str(key), "--json")
    assert key.stat().st_mode & 0o777 == 0o600
    assert key.read_text().strip() not in made.out + made.err
    assert sdb_here("models", "sign", "tiny", "--key", str(key), "--json").record == made.record
    monkeypatch.setenv("SDB_BUNDLE_SIGNERS", made.record["signer"])
    verified = sdb_here("models", "verify", "tiny", "--json")
    assert verified.status == 0
    assert "trusted" in verified.records[0]["detail"]
    changed_manifest(bundle)
    refused = sdb_here("models", "verify", "tiny", "--json")
    assert refused.status == 1
    assert "SDB_BUNDLE_SIGNERS" in refused.records[0]["detail"]
