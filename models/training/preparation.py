"""What every training that ends in a bundle begins with: its images, and where it ran.

Knows data sets and devices; does not know what is trained.
"""

import platform
from pathlib import Path

import torch

from models.bundles import InputSpec
from models.data import DataError, LabelledImages, check_classes, load
from models.release import FEWEST_IMAGES

CALIBRATION_IMAGES = 8192  # of the release stage


def read_training(
    path: Path, spec: InputSpec, *, held_out: int | None, seed: int, share: float = 1.0
) -> tuple[LabelledImages, LabelledImages]:
    """(training, held-out) images of the train split at `path`, of which only a `share` of each class is read.

    `held_out` of them are for looking at; a tenth, but no more than 5000, when left out.

    Raises:
        DataError: the splits number other classes, or too few images are left to train on.
    """
    check_classes(path)
    everything = load(path, "train", spec.height, spec.width, share=share, seed=seed)
    training, aside = everything.split(held_out or min(len(everything) // 10, 5000), seed)
    if len(training) < FEWEST_IMAGES:
        raise DataError(f"at least {FEWEST_IMAGES} training images are needed, {path} leaves {len(training)}")
    return training, aside


def made_with(device: torch.device) -> dict[str, object]:
    """What ran a training, for its provenance."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {"torch": torch.__version__, "device": name}
