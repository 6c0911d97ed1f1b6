"""What every training that ends in a bundle has in common: its plan, its images, and how the bundle is finished.

Knows data sets, manifests and devices; does not know what is trained.
"""

import hashlib
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning_fabric import Fabric

from models import bundles
from models.bundles import GuardSpec, InputSpec, LockSpec, Manifest
from models.data import DataError, LabelledImages, check_classes, load
from models.guard import SafeDistillationBox
from models.release import FEWEST_IMAGES
from models.training.loop import Recipe

CALIBRATION_IMAGES = 8192  # of the release stage


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What decides a bundle, however it is made; `lock` is that of its network, `recipe` that of its training."""

    name: str
    version: str
    architecture: str
    weights: Path
    data: Path
    input: InputSpec
    guard: GuardSpec
    lock: LockSpec | None
    recipe: Recipe
    held_out: int | None
    command: str

    @property
    def built(self) -> str:
        """The architecture that the bundle names."""
        return self.architecture

    def facts(self) -> dict[str, object]:
        """What decides the training beside its steps and the pictures themselves; reads the weights' file.

        A checkpoint is recognised by it.
        """
        return {
            "architecture": self.built,
            "data": self.data.name,
            "input": self.input.model_dump(),
            # A renamed model has another lock.
            "lock": None if self.lock is None else {"model": self.name, **self.lock.model_dump()},
            "weights_sha256": sha256_of(self.weights),
        }

    def manifest(self, classes: tuple[str, ...], device: torch.device, provenance: Mapping[str, object]) -> Manifest:
        """That of the bundle, as long as it has no figures and no weights."""
        made_on = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
        return Manifest(
            name=self.name,
            version=self.version,
            architecture=self.built,
            classes=classes,
            input=self.input,
            guard=self.guard,
            lock=self.lock,
            provenance={"command": self.command, **provenance, "torch": torch.__version__, "device": made_on},
        )


def sha256_of(file: Path) -> str:
    """The hash of its bytes, in hexadecimal."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def read_training(
    path: Path, spec: InputSpec, *, held_out: int | None, seed: int, share: float = 1.0
) -> tuple[LabelledImages, LabelledImages]:
    """(training, held-out) images of the train split at `path`, of which only a `share` of each class is read.

    `held_out` of them are for looking at (`LabelledImages.split`).

    Raises:
        DataError: the splits number other classes, or too few images are left to train on.
    """
    check_classes(path)
    everything = load(path, "train", spec.height, spec.width, share=share, seed=seed)
    training, aside = everything.split(held_out, seed)
    if len(training) < FEWEST_IMAGES:
        raise DataError(f"at least {FEWEST_IMAGES} training images are needed, {path} leaves {len(training)}")
    return training, aside


def finish(
    manifest: Manifest,
    measured: Mapping[str, float],
    box: SafeDistillationBox,
    out: Path,
    fabric: Fabric,
    *,
    secret: bytes,
) -> Manifest:
    """Write the bundle of `box` to `out`, in one of the processes; its manifest, with figures of the test images."""
    figures = {f"test_{name}": round(value, 4) for name, value in measured.items()}
    finished = manifest.model_copy(update={"metrics": {**manifest.metrics, **figures}})
    return bundles.save(out, finished, box.state_dict(), secret) if fabric.is_global_zero else finished
