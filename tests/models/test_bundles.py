"""Laws of bundles: what was saved is loaded, what was changed is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from models import bundles
from models.bundles import BundleError, GuardSpec, InputSpec, Manifest
from models.key_stream import fingerprint
from tests.conftest import SECRET


@pytest.fixture
def bundle(zoo: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(zoo / "tiny", tmp_path / "tiny"))


def test_a_bundle_comes_back_as_it_was(bundle: Path, tmp_path: Path) -> None:
    manifest, tensors = bundles.load(bundle)
    assert bundles.save(tmp_path / "copy", manifest, tensors) == manifest
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


def test_discovery_wants_at_least_one_bundle(zoo: Path, tmp_path: Path) -> None:
    assert bundles.discover(zoo) == [zoo / "tiny"]
    with pytest.raises(BundleError, match="no model bundle"):
        bundles.discover(tmp_path)
