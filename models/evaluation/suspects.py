"""Who is suspected to have learned from leaked answers: a bundle, bare weights, anything that answers images.

Knows bundles, weights and files; a live server makes its own `Suspect` (app/commands/trace.py).
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from models import bundles
from models.attacks.oracle import TierOracle
from models.backbones import Classifier
from models.bundles import InputSpec, Manifest
from models.evaluation.answers_file import Answers
from models.predictor import Predictor
from models.training.loop import predict

AT_ONCE = 100  # images, so that a progress bar moves
Told = Callable[[int], None]


@dataclass(frozen=True)
class Suspect:
    """What can be asked: `query` gives logits float32 [M, K] of images uint8 [M, 3, H, W] of the size (H, W).

    `top1_only`: nothing but the greatest is as the suspect has learned it.
    """

    kind: str
    name: str
    classes: tuple[str, ...] | None
    size: tuple[int, int]
    query: Callable[[Tensor], Tensor]
    top1_only: bool = False

    def answers(self, images: Tensor, told: Told, *, top1: bool) -> Answers:
        """Probabilities float32 [N, K] of images uint8 [N, 3, H, W]; or the top-1, int64 [N]. `told` counts images."""
        found = asked(self.query, images, told)
        return found.argmax(1).numpy() if top1 or self.top1_only else F.softmax(found.float(), 1).numpy()


def asked(query: Callable[[Tensor], Tensor], images: Tensor, told: Told) -> Tensor:
    """What `query` gives for all images, a few at a time."""
    chunks = []
    for chunk in torch.split(images, AT_ONCE):
        chunks.append(query(chunk))
        told(len(chunk))
    return torch.cat(chunks)


def bundle(folder: Path, secret: bytes, device: torch.device) -> Suspect:
    """A bundle as its key holders are answered, opened with its secret.

    Raises:
        BundleError: it is damaged, or the secret is not its own.
    """
    predictor = Predictor(folder, secret, device)
    manifest = predictor.manifest
    query = TierOracle(predictor, keyed=True).query
    return Suspect("bundle", folder.name, manifest.classes, _size(manifest.input), query)


def weights(file: Path, architecture: str, model: Manifest, spec: InputSpec, device: torch.device) -> Suspect:
    """Bare weights of a student, as `sdb distill` writes them, with the classes of our model.

    Raises:
        BundleError: they do not fit the architecture.
    """
    backbone = bundles.load_backbone(architecture, len(model.classes), file)
    network = Classifier(backbone, spec.mean, spec.std).eval().requires_grad_(False).to(device)
    return Suspect("weights", file.name, None, _size(spec), lambda images: predict(network, images, device))


def _size(spec: InputSpec) -> tuple[int, int]:
    return spec.height, spec.width
