"""Secret-key locks side by side: the published transforms, their compositions, and a network that learns to refuse.

From one pre-trained network: each scheme fine-tunes it on a subset, with the same recipe as the plain comparison, and
is asked with the right key, without one, with wrong ones and with nearly right ones. Rows lie in results/locks.json as
soon as they are there; the same command goes on where it stopped.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from benchmarks.rows import Kept
from models import bundles
from models.backbones import CIFAR, Classifier
from models.bundles import InputSpec, LockSpec
from models.data import LabelledImages, load
from models.lock import PixelLock
from models.metrics import top1
from models.training.figures import random_locks
from models.training.lock import locked_step, plain_step
from models.training.loop import Recipe, predict, train
from models.training.negatives import near_miss
from models.training.preparation import read_training
from models.training.refusal import Refusal, Refusing

CPU = torch.device("cpu")
NEARLY = (2, 4, 8, 16, 32)  # wrong entries of each step's key
WRONG_ON = 500  # test images that wrong keys are tried on
MEAN = STD = (0.5, 0.5, 0.5)


def main() -> None:
    """Train and ask every scheme that is named, for every seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="image folder, or PATH of PATH_train.parquet")
    parser.add_argument("--arch", default="cifar_resnet20")
    parser.add_argument("--weights", type=Path, required=True, help="its pre-trained weights")
    parser.add_argument("--size", type=int, help="side of the images; 32 or 224 by architecture when left out")
    parser.add_argument("--subset", type=float, default=0.1)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--learning-rate", type=float, default=0.05)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--wrong-keys", type=int, default=100)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("schemes", nargs="+", help="plain, or STEPS/BLOCK such as shf+np/4, with ! when it refuses")
    asked = parser.parse_args()
    kept = Kept("locks")
    side = asked.size or (32 if asked.arch in CIFAR else 224)
    spec = InputSpec(height=side, width=side, mean=MEAN, std=STD)
    setting = {
        "data": asked.data.name,
        "architecture": asked.arch,
        "size": side,
        "subset": asked.subset,
        "epochs": asked.epochs,
        "learning_rate": asked.learning_rate,
        "batch_size": asked.batch_size,
    }
    test = load(asked.data, "test", side, side)
    for seed in (int(seed) for seed in asked.seeds.split(",")):
        training, _ = read_training(asked.data, spec, held_out=None, seed=seed, share=asked.subset)
        for scheme in asked.schemes:
            named = {**setting, "scheme": scheme, "seed": seed}
            if kept.has(named):
                continue
            recipe = Recipe(asked.epochs, asked.learning_rate, asked.batch_size, seed=seed)
            figures = _figures(scheme, _start(asked.arch, asked.weights, training, seed), training, test, recipe, asked)
            kept.add({**named, **figures})


def _start(architecture: str, weights: Path, training: LabelledImages, seed: int) -> Classifier:
    torch.manual_seed(seed)  # a new head is drawn
    return Classifier(bundles.load_backbone(architecture, len(training.classes), weights, new_head=True), MEAN, STD)


def _figures(  # noqa: PLR0917 - bound one after the other
    scheme: str,
    start: nn.Module,
    training: LabelledImages,
    test: LabelledImages,
    recipe: Recipe,
    asked: argparse.Namespace,
) -> dict[str, Any]:
    """Top-1 in per cent."""
    started, fabric = time.monotonic(), Fabric(accelerator="cpu", devices=1)
    if scheme == "plain":
        network = train(fabric, start, training, plain_step, recipe, title=scheme)
        return {"right_key": _read(network, lambda images: images, test), "seconds": _since(started)}
    steps, block = scheme.removesuffix("!").split("/")
    spec = LockSpec(steps=tuple(steps.split("+")), block=int(block))
    secret = np.random.default_rng(recipe.seed).bytes(32)
    key = bundles.pixel_lock(spec, secret, scheme, (3, test.images.shape[2], test.images.shape[3]))
    refusal = Refusal(share=0.5 if scheme.endswith("!") else 0.0)
    network = train(fabric, start, training, locked_step(Refusing(key, refusal)), recipe, title=scheme)
    seconds, part = _since(started), test.subset(_spread(len(test)))
    wrong = [_read(network, other, part) for other in random_locks(key, asked.wrong_keys)]
    return {
        "right_key": _read(network, key, test),
        "no_key": _read(network, lambda images: images, test),
        "wrong_keys_mean": round(float(np.mean(wrong)), 2),
        "wrong_keys_95": round(float(np.percentile(wrong, 95)), 2),
        "wrong_keys_worst": max(wrong),
        "nearly_right": {str(entries): _nearly(network, key, entries, part) for entries in NEARLY},
        "seconds": seconds,
    }


def _nearly(network: nn.Module, key: PixelLock, entries: int, part: LabelledImages) -> float | None:
    """With `entries` wrong ones in the key of each step, the mean of three such keys; None if it has not so many."""
    share = entries / (key.transform.block**2 * key.transform.channels)
    if share > 1:
        return None
    draw = np.random.default_rng(entries)
    keys = [PixelLock(near_miss(key.transform, key.blocks, share, draw), key.shape) for _ in range(3)]
    return round(float(np.mean([_read(network, near, part) for near in keys])), 2)


def _read(network: nn.Module, key: Callable[[Tensor], Tensor], data: LabelledImages) -> float:
    return round(100 * top1(predict(lambda images: network(key(images)), data.images, CPU), data.labels), 2)


def _spread(count: int) -> Tensor:
    """Images from all over a test set that is sorted by class."""
    return torch.linspace(0, count - 1, min(WRONG_ON, count)).round().long()


def _since(started: float) -> float:
    return round(time.monotonic() - started, 1)


if __name__ == "__main__":
    main()
