"""Laws of bundles: what was saved is loaded, what was changed is refused."""

import json
import shutil
from pathlib import Path
from typing import Literal

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file

from app.settings import ZOO
from models import bundles
from models.backbones import build
from models.bundles import BundleError, GuardSpec, InputSpec, LockSpec, Manifest
from models.key_stream import fingerprint
from tests.conftest import CLASSES, SECRET


@pytest.fixture
def bundle(zoo: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(zoo / "tiny", tmp_path / "tiny"))


def test_a_bundle_comes_back_as_it_was(bundle: Path, tmp_path: Path) -> None:
    manifest, tensors = bundles.load(bundle)
    assert bundles.save(tmp_path / "copy", manifest, tensors, SECRET) == manifest
    again, same = bundles.load(tmp_path / "copy")
    assert again == manifest
    assert tensors.keys() == same.keys()
    assert all(torch.equal(tensors[name], same[name]) for name in tensors)


def test_one_changed_byte_of_the_weights_is_refused(bundle: Path) -> None:
    content = bytearray((bundle / bundles.WEIGHTS).read_bytes())
    content[-1] ^= 1
    (bundle / bundles.WEIGHTS).write_bytes(content)
    with pytest.raises(BundleError, match="differs from the sha256"):
        bundles.load(bundle)


def test_truncated_weights_are_refused(bundle: Path) -> None:
    content = (bundle / bundles.WEIGHTS).read_bytes()
    (bundle / bundles.WEIGHTS).write_bytes(content[: len(content) // 2])
    with pytest.raises(BundleError):
        bundles.load(bundle)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "../elsewhere"),
        ("name", "A B"),
        ("classes", ["one"]),
        ("input", {"height": 0, "width": 32}),
        ("guard", {"kind": "none"}),
        ("guard", {"lam": 0}),
        ("surprise", 1),
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(bundle: Path, field: str, value: object) -> None:
    document = json.loads((bundle / bundles.MANIFEST).read_text())
    (bundle / bundles.MANIFEST).write_text(json.dumps({**document, field: value}))
    with pytest.raises(BundleError):
        bundles.load_manifest(bundle)


@pytest.mark.parametrize("text", ["", "{", "[]", "null"])
def test_a_manifest_that_is_no_json_object_is_refused(bundle: Path, text: str) -> None:
    (bundle / bundles.MANIFEST).write_text(text)
    with pytest.raises(BundleError):
        bundles.load_manifest(bundle)


def test_an_unknown_architecture_is_refused() -> None:
    manifest = Manifest(
        name="x",
        architecture="perceptron",
        classes=("a", "b"),
        input=InputSpec(height=8, width=8),
        guard=GuardSpec(secret_fingerprint=fingerprint(SECRET)),
    )
    with pytest.raises(BundleError, match="unknown architecture"):
        bundles.assemble(manifest, SECRET)


def test_a_bundle_opens_with_no_secret_but_its_own(bundle: Path) -> None:
    with pytest.raises(BundleError, match="not the one that model tiny was trained with"):
        bundles.assemble(bundles.load_manifest(bundle), bytes(reversed(SECRET)))


def test_what_cannot_be_written_leaves_no_piece_of_itself(tmp_path: Path) -> None:
    (tmp_path / "in the way").mkdir()
    with pytest.raises(OSError, match="in the way"):
        bundles.write_atomically(tmp_path / "in the way", b"content")
    assert [path.name for path in tmp_path.iterdir()] == ["in the way"]


def test_discovery_wants_at_least_one_bundle(zoo: Path, tmp_path: Path) -> None:
    assert bundles.discover(zoo) == [zoo / "tiny"]
    with pytest.raises(BundleError, match="no model bundle"):
        bundles.discover(tmp_path)


def test_signatures_that_cannot_be_read_are_refused_where_one_is_wanted(bundle: Path) -> None:
    (bundle / bundles.SIGNATURES).mkdir()
    assert bundles.load_manifest(bundle).name == "tiny"
    with pytest.raises(BundleError, match="directory"):
        bundles.load_manifest(bundle, ["a signer"])


LOCK = LockSpec(steps=("shf", "np"), block=4)


def locked(
    lock: LockSpec | None = LOCK,
    *,
    side: int = 32,
    kind: Literal["sdb", "lock"] = "lock",
    lam: float = 1.0,
    passes: int = 1,
) -> Manifest:
    """A manifest with a lock, and the guard of a network that was only locked."""
    spec = GuardSpec(kind=kind, lam=lam, passes=passes, secret_fingerprint=fingerprint(SECRET))
    size = InputSpec(height=side, width=side)
    return Manifest(name="t", architecture="cifar_resnet8", classes=CLASSES, input=size, guard=spec, lock=lock)


def test_a_manifest_says_what_guards_the_model(bundle: Path) -> None:
    assert bundles.load_manifest(bundle).guards == ("sdb",)
    assert bundles.load_manifest(ZOO / "cifar10").guards == ("sdb",)
    assert locked().guards == ("lock",)
    assert locked(kind="sdb", lam=0.9).guards == ("sdb", "lock")


def test_a_guard_that_does_not_go_with_a_lock_is_refused() -> None:
    with pytest.raises(ValidationError, match="one pass"):
        locked(passes=2)
    with pytest.raises(ValidationError, match="λ is 1"):
        locked(lam=0.9)
    with pytest.raises(ValidationError, match="λ is 1"):
        locked(kind="sdb")


def test_a_lock_guard_without_a_lock_and_blocks_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValidationError, match="needs a lock"):
        locked(None)
    with pytest.raises(ValidationError, match="blocks of 4 do not divide 30 x 30"):
        locked(side=30)


@pytest.mark.parametrize(
    "lock",
    [
        {"steps": [], "block": 4},
        {"steps": ["rot13"], "block": 4},
        {"steps": ["shf"], "block": 3},
        {"steps": ["shf"], "block": 4, "method": "hoped for"},
        {"steps": ["shf"], "block": 4, "key": "no place for it"},
    ],
)
def test_a_lock_that_does_not_exist_is_refused(lock: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        LockSpec.model_validate(lock)


def test_steps_that_make_no_transform_are_refused_when_the_bundle_is_assembled() -> None:
    with pytest.raises(BundleError, match="ffx"):
        bundles.assemble(locked(LockSpec(steps=("ffx", "shf"), block=4)), SECRET)


def test_a_locked_bundle_comes_back_with_its_lock_and_without_its_key(tmp_path: Path) -> None:
    box = bundles.assemble(locked(), SECRET)
    assert box.lock is not None
    bundles.save(tmp_path, locked(), box.state_dict(), SECRET)
    manifest, tensors = bundles.load(tmp_path)
    assert manifest.lock == LOCK
    again = bundles.assemble(manifest, SECRET)
    again.load_state_dict(tensors)
    assert again.lock is not None
    assert torch.equal(again.lock.gather, box.lock.gather)
    others = {name for name in tensors if not name.startswith("network.backbone.")}
    assert others == {"release.mean", "release.whiten"}


def test_a_renamed_bundle_has_another_lock() -> None:
    first, second = (bundles.assemble(locked().model_copy(update={"name": name}), SECRET) for name in ("a", "b"))
    assert first.lock is not None
    assert second.lock is not None
    assert not torch.equal(first.lock.gather, second.lock.gather)


def test_weights_are_read_from_a_bare_classifier_and_from_a_bundle(bundle: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    bare = build("cifar_resnet8", 10)
    save_file(bare.state_dict(), tmp_path / "bare.safetensors")
    found = bundles.load_backbone("cifar_resnet8", 10, tmp_path / "bare.safetensors")
    assert torch.equal(found.state_dict()["linear.weight"], bare.state_dict()["linear.weight"])
    _, tensors = bundles.load(bundle)
    found = bundles.load_backbone("cifar_resnet8", 10, bundle / bundles.WEIGHTS)
    assert torch.equal(found.state_dict()["linear.weight"], tensors["network.backbone.linear.weight"])


@pytest.mark.parametrize("architecture", ["cifar_resnet8", "mobilenet_v2", "squeezenet1_0", "cifar_vit"])
def test_with_a_new_head_weights_for_another_number_of_classes_fit(architecture: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    bare = build(architecture, 7)
    save_file(bare.state_dict(), tmp_path / "bare.safetensors")
    with pytest.raises(BundleError, match="does not fit"):
        bundles.load_backbone(architecture, 10, tmp_path / "bare.safetensors")
    found = bundles.load_backbone(architecture, 10, tmp_path / "bare.safetensors", new_head=True).state_dict()
    old = bare.state_dict()
    same = [name for name in old if old[name].shape == found[name].shape]
    assert len(old) - len(same) == 2, "the head's weight and bias"
    assert all(torch.equal(old[name], found[name]) for name in same)


def test_a_new_head_does_not_make_other_weights_fit(tmp_path: Path) -> None:
    save_file(build("cifar_resnet20", 7).state_dict(), tmp_path / "bare.safetensors")
    with pytest.raises(BundleError, match="does not fit"):
        bundles.load_backbone("cifar_resnet8", 10, tmp_path / "bare.safetensors", new_head=True)
