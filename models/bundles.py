"""A model bundle on disk: `bundle.json` states everything, `weights.safetensors` holds the tensors; never a pickle.

`bundle.sig` may say who vouches for it. Knows files, their hashes and how a manifest becomes a box; does not know how
to train or to serve one.
"""

import hashlib
import os
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import load_file
from safetensors.torch import save as save_tensors
from sdb_client.transforms import BLOCKS, STEPS, TransformError
from torch import Tensor, nn

from models.backbones import STEM, Classifier, build
from models.guard import SafeDistillationBox
from models.key_stream import fingerprint, release_secret
from models.lock import PixelLock, lock_transform
from models.release import Release
from models.sealing import SealError, opened, sealed
from models.signatures import public_key, signed, signer_of
from models.views import MAX_PASSES

MANIFEST, WEIGHTS, SIGNATURES = "bundle.json", "weights.safetensors", "bundle.sig"
BACKBONE = "network.backbone."  # where the bare classifier is among the tensors of a bundle
NAME = r"^[a-z0-9][a-z0-9._-]{0,63}$"
FileName = Annotated[str, Field(pattern=NAME)]  # of this folder, and of no other


class BundleError(ValueError):
    """The bundle is missing, damaged or of a kind this program does not know."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class InputSpec(_Frozen):
    """What the network eats: RGB pixels of one size, normalised by (x/255 − mean) / std."""

    height: Annotated[int, Field(ge=8, le=4096)]
    width: Annotated[int, Field(ge=8, le=4096)]
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)


class GuardSpec(_Frozen):
    """The public parameters of the Safe Distillation Box; the secret is elsewhere.

    Kind "lock" is a network that is locked but was not trained as a box: no key embedding, which is λ = 1. Its answers
    leave through the same release stage.
    """

    kind: Literal["sdb", "lock"] = "sdb"
    lam: Annotated[float, Field(gt=0, le=1)] = 0.9
    release_scale: Annotated[float, Field(gt=0)] = 12.0
    confidences: Annotated[tuple[float, ...], Field(min_length=1)] = (0.7,)
    confidence_edges: tuple[float, ...] = ()
    temperature: Annotated[float, Field(gt=0)] = 4.0
    passes: Annotated[int, Field(ge=1, le=MAX_PASSES)] = 2
    own_normalisation: bool = False  # of the keyed pass; sealed with the secret
    secret_fingerprint: str

    @model_validator(mode="after")
    def _lam_fits(self) -> Self:
        if (self.kind == "lock") != (self.lam == 1):
            raise ValueError("λ is 1 for a guard of kind lock, and below 1 for a box")
        return self


class LockSpec(_Frozen):
    """The public parameters of a lock: the steps of the transform, in order, and its block; the key is elsewhere.

    A "trained" lock was learned by the network, a "matched" one was put into the weights of a vision transformer.
    """

    steps: Annotated[tuple[str, ...], Field(min_length=1)]
    block: int
    method: Literal["trained", "matched"] = "trained"

    @field_validator("steps")
    @classmethod
    def _known_steps(cls, steps: tuple[str, ...]) -> tuple[str, ...]:
        if not set(steps) <= set(STEPS):
            raise ValueError(f"a step is one of: {', '.join(STEPS)}")
        return steps

    @field_validator("block")
    @classmethod
    def _known_block(cls, block: int) -> int:
        if block not in BLOCKS:
            raise ValueError(f"a block is one of: {', '.join(map(str, BLOCKS))}")
        return block


class Manifest(_Frozen):
    """`bundle.json`."""

    name: Annotated[str, Field(pattern=NAME)]
    version: Annotated[str, Field(pattern=NAME)] = "1"
    architecture: str
    classes: Annotated[tuple[str, ...], Field(min_length=2)]
    input: InputSpec
    guard: GuardSpec
    lock: LockSpec | None = None
    metrics: dict[str, float] = {}
    provenance: dict[str, object] = {}
    sha256: dict[FileName, str] = {}

    @model_validator(mode="after")
    def _lock_fits(self) -> Self:
        if self.lock is None:
            if self.guard.kind == "lock":
                raise ValueError("a guard of kind lock needs a lock")
            return self
        if self.guard.passes != 1:
            raise ValueError("a locked model answers in one pass: the mirror of a transformed image means nothing")
        if self.input.height % self.lock.block or self.input.width % self.lock.block:
            raise ValueError(f"blocks of {self.lock.block} do not divide {self.input.height} x {self.input.width}")
        return self

    @property
    def guards(self) -> tuple[str, ...]:
        """What protects the model: "sdb", "lock" or both."""
        locked = () if self.lock is None else ("lock",)
        return locked if self.guard.kind == "lock" else ("sdb", *locked)

    @property
    def plain_input(self) -> InputSpec | None:
        """How the network was normalised that a lock with a stem began from; None where that is not known."""
        found = self.provenance.get("input") if STEM in self.architecture else None
        return None if found is None else InputSpec.model_validate(found)


def assemble(manifest: Manifest, secret: bytes, deployment: bytes = b"") -> SafeDistillationBox:
    """The box that a manifest describes, with fresh weights: `load_state_dict` gives it the trained ones.

    `deployment` is what makes the false peaks of one server differ from those of any other with the same bundle.

    Raises:
        BundleError: the architecture is unknown, its lock makes no transform, or the secret is not its own.
    """
    if fingerprint(secret) != manifest.guard.secret_fingerprint:
        raise BundleError(f"the secret given is not the one that model {manifest.name} was trained with")
    spec, guard = manifest.input, manifest.guard
    shape = (3, spec.height, spec.width)
    try:
        backbone = build(manifest.architecture, len(manifest.classes))
        release = Release(
            release_secret(secret, deployment, f"{manifest.name}/{manifest.version}"),
            len(manifest.classes),
            scale=guard.release_scale,
            confidences=guard.confidences,
            edges=guard.confidence_edges,
        )
        lock = None if manifest.lock is None else pixel_lock(manifest.lock, secret, manifest.name, shape)
    except ValueError as error:
        raise BundleError(str(error)) from error
    network = Classifier(backbone, spec.mean, spec.std)
    return SafeDistillationBox(
        network,
        secret,
        release,
        shape=shape,
        lam=guard.lam,
        passes=guard.passes,
        lock=lock,
        own_normalisation=guard.own_normalisation,
    )


def restore(
    manifest: Manifest, tensors: dict[str, Tensor], secret: bytes, deployment: bytes = b""
) -> SafeDistillationBox:
    """The box that a manifest describes, with the tensors of its bundle.

    Raises:
        BundleError: as `assemble`; or they are not those of such a box, or sealed with another secret.
    """
    box = assemble(manifest, secret, deployment)
    try:
        box.load_state_dict(opened(tensors, secret))
    except (RuntimeError, SealError) as error:
        what = f"{manifest.architecture} with {len(manifest.classes)} classes"
        raise BundleError(f"the weights of {manifest.name} do not fit {what}: {error}") from error
    return box


def pixel_lock(spec: LockSpec, secret: bytes, model: str, shape: tuple[int, int, int]) -> PixelLock:
    """The lock of the model called `model`, for images of `shape` (C, H, W); a renamed model has another one.

    Raises:
        BundleError: the steps make no transform, or the block does not divide the image.
    """
    try:
        return PixelLock(lock_transform(secret, model, spec.steps, spec.block), shape)
    except TransformError as error:
        raise BundleError(str(error)) from error


def load_backbone(architecture: str, num_classes: int, weights: Path, *, new_head: bool = False) -> nn.Module:
    """A classifier with the weights of a `.safetensors` file: a bare classifier's own, or a bundle's.

    With `new_head`, the head of a file for another number of classes is left out, and stays as it was initialised.

    Raises:
        BundleError: unknown architecture, or weights that are not its own.
    """
    try:
        backbone = build(architecture, num_classes)
        tensors = load_file(weights)
        if any(name.startswith(BACKBONE) for name in tensors):
            tensors = {n.removeprefix(BACKBONE): tensor for n, tensor in tensors.items() if n.startswith(BACKBONE)}
        if new_head:
            tensors = _without_head(tensors, backbone.state_dict(), num_classes)
        backbone.load_state_dict(tensors)
    except (OSError, RuntimeError, SafetensorError, ValueError) as error:
        raise BundleError(f"{weights} does not fit {architecture}: {error}") from error
    return backbone


def _without_head(found: dict[str, Tensor], fresh: dict[str, Tensor], num_classes: int) -> dict[str, Tensor]:
    """`found`, with the fresh tensors in place of those that differ in their first dimension, the number of classes."""
    other = {
        name
        for name, tensor in fresh.items()
        if name in found and tensor.shape[:1] == (num_classes,) and found[name].shape[1:] == tensor.shape[1:]
    }
    return {**found, **{name: fresh[name] for name in other if found[name].shape != fresh[name].shape}}


def save(folder: Path, manifest: Manifest, tensors: dict[str, Tensor], secret: bytes) -> Manifest:
    """Write a bundle and return its manifest; the manifest with the hashes goes last, so half a bundle never loads.

    What is the keyed pass's alone is sealed with the secret.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content = save_tensors(sealed(tensors, secret))
    write_atomically(folder / WEIGHTS, content)
    return _write_manifest(folder, manifest, {WEIGHTS: hashlib.sha256(content).hexdigest()})


def load_manifest(folder: Path, signers: Collection[str] = ()) -> Manifest:
    """The manifest alone, signed by one of the `signers` (public keys in base64url) if there are any.

    Raises:
        BundleError: there is none, it is not valid, or none of the signers has signed it.
    """
    try:
        content = (folder / MANIFEST).read_bytes()
        manifest = parse_manifest(content)
        trusted = not signers or signer_of(content, _signatures(folder), signers) is not None
    except (OSError, BundleError) as error:
        raise BundleError(f"{folder / MANIFEST}: {error}") from error
    if not trusted:
        raise BundleError(f"{folder / MANIFEST} is signed by none of the signers that SDB_BUNDLE_SIGNERS names")
    return manifest


def _signatures(folder: Path) -> str:
    path = folder / SIGNATURES
    return path.read_text(errors="replace") if path.exists() else ""


def sign(folder: Path, seed: bytes) -> str:
    """Sign an intact bundle with the private key of `seed` (32 bytes) beside whoever has; the public key.

    Raises:
        BundleError: the bundle is damaged, or its folder cannot be written to.
    """
    manifest, _ = load(folder)
    check(folder, manifest)
    try:
        signatures = signed((folder / MANIFEST).read_bytes(), seed, _signatures(folder))
        write_atomically(folder / SIGNATURES, signatures.encode())
    except OSError as error:
        raise BundleError(f"{folder / SIGNATURES} cannot be written: {error.strerror}") from None
    return public_key(seed)


def parse_manifest(content: bytes) -> Manifest:
    """The manifest that the bytes of a `bundle.json` are.

    Raises:
        BundleError: they are not JSON, or not a manifest.
    """
    try:
        return Manifest.model_validate_json(content)
    except ValidationError as error:
        raise BundleError(str(error)) from error


def load(folder: Path) -> tuple[Manifest, dict[str, Tensor]]:
    """The manifest and the tensors, the latter checked against their hash.

    Raises:
        BundleError: a file is missing, or differs from its hash.
    """
    manifest = load_manifest(folder)
    content = intact(folder, manifest, WEIGHTS)
    try:
        return manifest, load_tensors(content)
    except SafetensorError as error:
        raise BundleError(f"{folder / WEIGHTS}: {error}") from error


def intact(folder: Path, manifest: Manifest, name: str) -> bytes:
    """The content of a file of the bundle, checked against its hash.

    Raises:
        BundleError: the manifest does not name the file, it is missing, or it differs from its hash.
    """
    path = folder / name
    if name not in manifest.sha256:
        raise BundleError(f"{path} is not among the files that {MANIFEST} names")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path}: {error}") from error
    if hashlib.sha256(content).hexdigest() != manifest.sha256[name]:
        raise BundleError(f"{path} differs from the sha256 in {MANIFEST}")
    return content


def check(folder: Path, manifest: Manifest) -> None:
    """Raise BundleError if one of the files that the manifest names is missing, or differs from its hash."""
    for name in manifest.sha256:
        intact(folder, manifest, name)


def attach(folder: Path, name: str, content: bytes) -> None:
    """Write a further file into a bundle and its hash into the manifest, which is to be signed again if it was.

    The manifest does not name the file while it is written: what is interrupted leaves a bundle without it.

    Raises:
        BundleError: the manifest is missing or not valid.
        OSError: the folder cannot be written to.
    """
    manifest = load_manifest(folder)
    others = {other: sha256 for other, sha256 in manifest.sha256.items() if other != name}
    _write_manifest(folder, manifest, others)
    write_atomically(folder / name, content)
    _write_manifest(folder, manifest, {**others, name: hashlib.sha256(content).hexdigest()})


def _write_manifest(folder: Path, manifest: Manifest, sha256: dict[str, str]) -> Manifest:
    manifest = manifest.model_copy(update={"sha256": sha256})
    write_atomically(folder / MANIFEST, (manifest.model_dump_json(indent=2) + "\n").encode())
    return manifest


def discover(folder: Path) -> list[Path]:
    """The bundles directly under `folder`, by name.

    Raises:
        BundleError: the folder holds none.
    """
    found = sorted(manifest.parent for manifest in folder.glob(f"*/{MANIFEST}"))
    if not found:
        raise BundleError(f"no model bundle in {folder}")
    return found


def write_atomically(path: Path, content: bytes) -> None:
    """Replace `path` by `content` as a whole or not at all, on disk when this returns."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)  # a full disk is not made fuller
        raise
