"""The serving façade of one model: uint8 pixels in, float32 logits out, no state between calls.

Knows the bundle, the device and the engine; knows no HTTP and no caller beyond two booleans per row.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from models import bundles
from models.data import Pixels, fit
from models.engines.choice import Chooser, Wanted
from models.engines.engine import Answering, Logits, Rights
from models.engines.graphs import LANES
from models.sealing import Seal
from models.watch import Certainty

EAGER = Wanted()


class DeviceError(ValueError):
    """The device asked for does not exist here."""


def choose_device(name: str) -> torch.device:
    """ "auto" is CUDA when there is a device, else the CPU; anything else is a torch device name.

    Raises:
        DeviceError: the named device does not exist here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeviceError(f"{name!r} is not a device") from error
    if device.type not in {"cpu", "cuda"}:
        raise DeviceError(f"{name!r} is not a device that models run on; cpu, cuda and cuda:N are")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DeviceError(f"{name!r} asked for, {torch.cuda.device_count()} CUDA devices found")
    return device


def choose_devices(names: str) -> list[torch.device]:
    """One device or, separated by commas, several.

    Raises:
        DeviceError: one of them does not exist here, or is named twice.
    """
    devices = [choose_device(name) for name in names.split(",")]
    if len({(device.type, device.index or 0) for device in devices}) < len(devices):
        raise DeviceError(f"{names!r} names a device twice")
    return devices


class Predictor:
    """A loaded bundle that answers batches; safe to call from several threads, `at_once` of which it keeps busy.

    `box` is for who owns it: its keyed pass, its network without the key.
    """

    def __init__(
        self, folder: Path, secret: bytes, device: torch.device, deployment: bytes = b"", wanted: Wanted = EAGER
    ) -> None:
        """Load and verify the bundle in `folder`, whose box opens with `secret` (32 bytes).

        `deployment` salts the false peaks (`bundles.assemble`); `wanted` says which engine runs the box.

        Raises:
            BundleError: the bundle is damaged, or its weights are not those of the box that it describes.
        """
        self.manifest, tensors = bundles.load(folder)
        box = bundles.restore(self.manifest, tensors, secret, deployment)
        self.device = device
        self.box = box.eval().requires_grad_(False).to(device).to(memory_format=torch.channels_last)
        answering = Answering(self.box, watched=wanted.watched)
        self.choice = Chooser(answering, self.manifest, device, wanted, Seal(secret, "graph")).choose()
        self.at_once = LANES if device.type == "cuda" else wanted.cores.workers

    def fit(self, image: Image.Image) -> Pixels:
        """An RGB picture of any size → uint8 [H, W, 3] of the model's input size."""
        return fit(image, self.manifest.input.height, self.manifest.input.width)

    def __call__(self, images: Pixels, keyed: Rights, unlocked: Rights | None = None) -> Logits:
        """Logits float32 [B, K] of images uint8 [B, H, W, 3] in one forward pass.

        `keyed` [B] says which rows leave undisturbed, `unlocked` [B] which a locked model's own key transforms first;
        none when left out, and without meaning where the model has no lock.

        Raises:
            torch.OutOfMemoryError: the device has no room for a single row.
        """
        return self.watched(images, keyed, unlocked)[0]

    def watched(self, images: Pixels, keyed: Rights, unlocked: Rights | None = None) -> tuple[Logits, Certainty | None]:
        """The same, and if `wanted` says so, how sure the network was of each row before the release stage: [B].

        For who watches what is asked (models/watch.py): the second may not leave.
        """
        answer = self.choice.engine(images, keyed, np.zeros_like(keyed) if unlocked is None else unlocked)
        classes = len(self.manifest.classes)
        if answer.shape[1] == classes:
            return answer, None
        return np.ascontiguousarray(answer[:, :classes]), answer[:, classes]
