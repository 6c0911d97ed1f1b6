"""Fuzzes the manifest of a model bundle: a manifest that says the same when it is written, or a refusal."""

from models.bundles import BundleError, GuardSpec, InputSpec, LockSpec, Manifest, parse_manifest

BOX = Manifest(
    name="tiny",
    architecture="cifar_resnet8",
    classes=("cat", "dog"),
    input=InputSpec(height=32, width=32),
    guard=GuardSpec(secret_fingerprint="0123456789abcdef"),
    metrics={"test_top1_keyed": 0.9},
    provenance={"seed": 1, "data": {"name": "cifar10"}},
    sha256={"weights.safetensors": "00" * 32},
)
LOCKED = BOX.model_copy(
    update={
        "guard": GuardSpec(kind="lock", lam=1, passes=1, secret_fingerprint="0123456789abcdef"),
        "lock": LockSpec(steps=("shf", "np"), block=4),
    }
)
SEEDS = [BOX.model_dump_json().encode(), LOCKED.model_dump_json(indent=2).encode(), b"[" * 5000, b"\xff{}", b"null"]


def feed(data: bytes) -> None:
    """All of it is the manifest."""
    try:
        manifest = parse_manifest(data)
    except BundleError:
        return
    assert parse_manifest(manifest.model_dump_json().encode()) == manifest
