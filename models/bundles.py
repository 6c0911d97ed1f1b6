"""A model bundle on disk: `bundle.json` states everything, `weights.safetensors` holds the tensors; never a pickle.

Knows files, their hashes and how a manifest becomes a box; does not know how to train or to serve one.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import load_file
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from models.backbones import Classifier, build
from models.guard import SafeDistillationBox
from models.key_stream import fingerprint, release_secret
from models.release import Release
from models.views import MAX_PASSES

MANIFEST, WEIGHTS = "bundle.json", "weights.safetensors"
NAME = r"^[a-z0-9][a-z0-9._-]{0,63}$"


class BundleError(ValueError):
    """The bundle is missing, damaged or of a kind this program does not know."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class InputSpec(_Frozen):
    """What the network eats: RGB pixels of one size, normalised by (x/255 − mean) / std."""

    height: Annotated[int, Field(ge=8, le=4096)]
    width: Annotated[int, Field(ge=8, le=4096)]
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)


class GuardSpec(_Frozen):
    """The public parameters of the Safe Distillation Box; the secret is elsewhere."""

    kind: Literal["sdb"] = "sdb"
    lam: Annotated[float, Field(gt=0, lt=1)] = 0.9
    release_scale: Annotated[float, Field(gt=0)] = 12.0
    confidences: Annotated[tuple[float, ...], Field(min_length=1)] = (0.7,)
    confidence_edges: tuple[float, ...] = ()
    temperature: Annotated[float, Field(gt=0)] = 4.0
    passes: Annotated[int, Field(ge=1, le=MAX_PASSES)] = 2
    secret_fingerprint: str


class Manifest(_Frozen):
    """`bundle.json`."""

    name: Annotated[str, Field(pattern=NAME)]
    version: Annotated[str, Field(pattern=NAME)] = "1"
    architecture: str
    classes: Annotated[tuple[str, ...], Field(min_length=2)]
    input: InputSpec
    guard: GuardSpec
    metrics: dict[str, float] = {}
    provenance: dict[str, object] = {}
    sha256: dict[str, str] = {}


def assemble(manifest: Manifest, secret: bytes, deployment: bytes = b"") -> SafeDistillationBox:
    """The box that a manifest describes, with fresh weights: `load_state_dict` gives it the trained ones.

    `deployment` is what makes the false peaks of one server differ from those of any other with the same bundle.

    Raises:
        BundleError: the architecture is unknown, or the secret is not the one that the box was trained with.
    """
    if fingerprint(secret) != manifest.guard.secret_fingerprint:
        raise BundleError(f"the secret given is not the one that model {manifest.name} was trained with")
    spec, guard = manifest.input, manifest.guard
    try:
        backbone = build(manifest.architecture, len(manifest.classes))
        release = Release(
            release_secret(secret, deployment, f"{manifest.name}/{manifest.version}"),
            len(manifest.classes),
            scale=guard.release_scale,
            confidences=guard.confidences,
            edges=guard.confidence_edges,
        )
    except ValueError as error:
        raise BundleError(str(error)) from error
    network = Classifier(backbone, spec.mean, spec.std)
    shape = (3, spec.height, spec.width)
    return SafeDistillationBox(network, secret, release, shape=shape, lam=guard.lam, passes=guard.passes)


def load_backbone(architecture: str, num_classes: int, weights: Path) -> nn.Module:
    """A classifier with the weights of a `.safetensors` file.

    Raises:
        BundleError: unknown architecture, or weights that are not its own.
    """
    try:
        backbone = build(architecture, num_classes)
        backbone.load_state_dict(load_file(weights))
    except (OSError, RuntimeError, SafetensorError, ValueError) as error:
        raise BundleError(f"{weights} does not fit {architecture}: {error}") from error
    return backbone


def save(folder: Path, manifest: Manifest, tensors: dict[str, Tensor]) -> Manifest:
    """Write a bundle and return its manifest; the manifest with the hashes goes last, so half a bundle never loads."""
    folder.mkdir(parents=True, exist_ok=True)
    content = save_tensors({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    manifest = manifest.model_copy(update={"sha256": {WEIGHTS: hashlib.sha256(content).hexdigest()}})
    write_atomically(folder / WEIGHTS, content)
    write_atomically(folder / MANIFEST, (manifest.model_dump_json(indent=2) + "\n").encode())
    return manifest


def load_manifest(folder: Path) -> Manifest:
    """The manifest alone.

    Raises:
        BundleError: there is none, or it is not valid.
    """
    try:
        return Manifest.model_validate(json.loads((folder / MANIFEST).read_bytes()))
    except (OSError, json.JSONDecodeError, ValidationError) as error:
        raise BundleError(f"{folder / MANIFEST}: {error}") from error


def load(folder: Path) -> tuple[Manifest, dict[str, Tensor]]:
    """The manifest and the tensors, the latter checked against their hash.

    Raises:
        BundleError: a file is missing, or differs from its hash.
    """
    manifest = load_manifest(folder)
    try:
        content = (folder / WEIGHTS).read_bytes()
        if hashlib.sha256(content).hexdigest() != manifest.sha256.get(WEIGHTS):
            raise BundleError(f"{folder / WEIGHTS} differs from the sha256 in {MANIFEST}")
        return manifest, load_tensors(content)
    except (OSError, SafetensorError) as error:
        raise BundleError(f"{folder / WEIGHTS}: {error}") from error


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
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
