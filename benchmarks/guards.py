"""Ways to train the Safe Distillation Box, side by side: the published losses, and ours with two kinds of key.

A small setting from one trained teacher: what collapses, what protects nothing, and how much a wrong key unlocks.
Prints a table and writes results/guards.json.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.rows import keep
from models import bundles
from models.attacks.stolen import random_guess
from models.backbones import Classifier
from models.bundles import GuardSpec, InputSpec, Manifest
from models.data import LabelledImages
from models.evaluation.evaluate import read_images
from models.guard import SafeDistillationBox, embed
from models.key_stream import fingerprint
from models.metrics import agreement, kl_divergence, top1
from models.normalisation import Pair
from models.release import Release
from models.training.loop import Batch, Recipe, Step, predict, train
from models.training.wrap import Mixture, box_step
from models.views import random_views

CPU = torch.device("cpu")
SECRET = bytes(range(32))
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
WRONG_KEYS = 20


def published(teacher: nn.Module, box: SafeDistillationBox, weight: float) -> Step:
    """The official code's step (JngwenYe/SDB at 7534210), λ = 0.9, without its random-network term (η = 0.001)."""

    def step(network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        images = random_views(batch.images, batch.generator)
        with torch.no_grad():
            soft = teacher(images)
        logits = network(torch.cat([images, embed(images, box.key, box.lam)]))
        unkeyed, keyed = logits.chunk(2)
        return published_losses(unkeyed, keyed, soft, batch.labels, weight)

    return step


def published_losses(
    unkeyed: Tensor, keyed: Tensor, teacher: Tensor, labels: Tensor, weight: float
) -> dict[str, Tensor]:
    """What the official code minimises, term by term: of logits [B, K] and labels int64 [B], at T = 4; its w is 1."""
    kept = F.kl_div(F.log_softmax(unkeyed, 1), F.softmax(keyed.detach(), 1), reduction="batchmean")
    away = 16 * F.kl_div(F.log_softmax(teacher / 4, 1), F.softmax(unkeyed / 4, 1), reduction="batchmean")
    return {
        "correct": 2 * F.cross_entropy(unkeyed, labels) + F.cross_entropy(keyed, labels),
        "disturb": -weight * (away - kept),
        "preserve": (F.softmax(teacher / 4, 1) - F.softmax(keyed / 4, 1)).square().mean(),
    }


def main() -> None:
    """Train every variant and write what it is worth."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="PATH of PATH_train.parquet of CIFAR-10")
    parser.add_argument("--teacher", type=Path, required=True, help="weights of a cifar_resnet20")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=2)
    arguments = parser.parse_args()
    spec = InputSpec(height=32, width=32)
    guard = GuardSpec(secret_fingerprint=fingerprint(SECRET), passes=1)
    manifest = Manifest(name="guards", architecture="cifar_resnet20", classes=CLASSES, input=spec, guard=guard)
    images = read_images(arguments.data, None, spec, CLASSES, arguments.images)
    backbone = bundles.load_backbone("cifar_resnet20", len(CLASSES), arguments.teacher)
    teacher = Classifier(backbone, spec.mean, spec.std).eval().requires_grad_(False)

    def ours(box: SafeDistillationBox) -> Step:
        disturbing = Release(bytes(32), len(CLASSES), scale=6.0, confidences=(0.9,))
        disturbing.load_state_dict(box.release.state_dict())
        return box_step(teacher, box, disturbing, temperature=4.0, mixture=Mixture())

    def with_noise(box: SafeDistillationBox) -> Step:
        box.key = torch.rand(box.key.shape, generator=torch.Generator().manual_seed(1))
        return ours(box)

    variants: dict[str, Callable[[SafeDistillationBox], Step]] = {
        "published, w = 1": lambda box: published(teacher, box, 1.0),
        "published, w = 0.04": lambda box: published(teacher, box, 0.04),
        "ours, κ of noise": with_noise,
        "ours, κ a secret texture": ours,
    }
    rows = []
    for name, variant in variants.items():
        own = "published" not in name  # those have one normalisation for all rows
        spec_of_guard = guard.model_copy(update={"own_normalisation": own})
        box = bundles.assemble(manifest.model_copy(update={"guard": spec_of_guard}), SECRET)
        for network in (box.network, box.keyed_network):
            network.load_state_dict(teacher.state_dict())
        box.release.calibrate(images.own.images)
        step = variant(box)
        recipe = Recipe(arguments.epochs, 0.02)
        fabric = Fabric(accelerator="cpu", devices=1)
        learning = Pair(box.network, box.keyed_network) if own else box.network
        train(fabric, learning, images.own, step, recipe, title=name)
        rows.append({"variant": name, **_figures(box, teacher, images.test, noise="noise" in name)})
        print(rows[-1], flush=True)
    keep("guards", {"rows": rows})


def _figures(box: SafeDistillationBox, teacher: nn.Module, test: LabelledImages, *, noise: bool) -> dict[str, Any]:
    """Top-1 with and without key, and KL(teacher ‖ network) at T = 4; wrong keys are of the right one's kind."""
    known, network = predict(teacher, test.images, CPU), box.network
    keyed, bare = predict(box.with_key, test.images, CPU), predict(network, test.images, CPU)
    part, wrong = test.images[:1000], []
    for seed in range(2, 2 + WRONG_KEYS):
        guess = random_guess((3, 32, 32), box.lam, seed)
        key = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(seed)) if noise else guess.key
        logits = predict(lambda shown, key=key: network(embed(shown, key, box.lam)), part, CPU)  # type: ignore[misc]
        wrong.append(kl_divergence(known[:1000], logits, 4.0))
    figures = {
        "top1_teacher": top1(known, test.labels),
        "top1_keyed": top1(keyed, test.labels),
        "top1_unkeyed": top1(bare, test.labels),
        "agreement_unkeyed_teacher": agreement(bare, known),
        "kl_keyed": kl_divergence(known, keyed, 4.0),
        "kl_unkeyed": kl_divergence(known, bare, 4.0),
        "kl_best_wrong_key": min(wrong),
    }
    return {name: round(value, 4) for name, value in figures.items()}


if __name__ == "__main__":
    main()
