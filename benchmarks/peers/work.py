"""What each of the other servers does with an image: Pillow, then eager PyTorch on a thread, or on a GPU in bfloat16.

Knows the folder it is started in (`subject.json` and weights); knows no server. Written as a tutorial would, and well:
bytes stay uint8 until they are a batch, the network is frozen, nothing is tracked.
"""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from models.backbones import build

SUBJECT = "subject.json"


@dataclass(frozen=True)
class Subject:
    """The network of a benchmark, as `subject.json` states it; `weights` names a safetensors file beside it."""

    architecture: str
    classes: int
    side: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    max_batch: int
    weights: str
    device: str = "cpu"

    @classmethod
    def read(cls, folder: Path) -> "Subject":
        """The one in `folder`."""
        return cls(**json.loads((folder / SUBJECT).read_text()))


class Work:
    """Encoded images to probabilities by `network`, which is loaded from `folder` when this is made."""

    def __init__(self, folder: Path) -> None:
        torch.set_num_threads(1)
        self.subject = subject = Subject.read(folder)
        self.network = build(subject.architecture, subject.classes)
        self.network.load_state_dict(load_file(folder / subject.weights))
        self.network.eval().requires_grad_(False).to(subject.device)
        self._mean = torch.tensor(subject.mean, device=subject.device).view(1, 3, 1, 1)
        self._std = torch.tensor(subject.std, device=subject.device).view(1, 3, 1, 1)
        self._reduced = subject.device == "cuda"
        if self._reduced:
            self.network.to(torch.bfloat16).to(memory_format=torch.channels_last)

    def decode(self, encoded: bytes) -> Tensor:
        """uint8 [3, side, side]: the centre of an image that is not smaller."""
        return self.pixels(Image.open(io.BytesIO(encoded)))

    def pixels(self, image: Image.Image) -> Tensor:
        """The same of an image that is open already."""
        side = self.subject.side
        left, top = (image.width - side) // 2, (image.height - side) // 2
        cropped = image.convert("RGB").crop((left, top, left + side, top + side))
        return torch.from_numpy(np.array(cropped)).permute(2, 0, 1)

    @torch.inference_mode()
    def probabilities(self, images: Sequence[Tensor]) -> Tensor:
        """float32 [N, K] of images uint8 [3, side, side]."""
        batch = torch.stack(list(images)).to(self.subject.device).float().div_(255)
        batch = (batch - self._mean) / self._std
        if self._reduced:
            batch = batch.to(torch.bfloat16, memory_format=torch.channels_last)
        logits: Tensor = self.network(batch)
        return logits.float().softmax(1).cpu()

    def predict(self, images: Sequence[Tensor]) -> list[list[float]]:
        """The same as lists."""
        answers: list[list[float]] = self.probabilities(images).tolist()
        return answers
