"""Stolen weights: how far from the teacher the network is without its key, with wrong keys and with nearly right ones.

Knows the box; makes no student (`arms` lets thieves distil and fine-tune).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from models.attacks.stolen import Guess, asked, near_guess, random_guess, recalibrated, renormalised, sought_guess
from models.data import LabelledImages
from models.guard import SafeDistillationBox
from models.metrics import kl_divergence, top1
from models.progress import followed
from models.training.loop import predict

WRONG_PIXELS = (0.01, 0.05, 0.1, 0.2, 0.5)
WRONG_LAMBDAS = (0.5, 0.7, 0.8, 0.85, 0.95)
TEMPERATURE = 4.0
INVERSION_STEPS = 300
IMAGES_PER_KEY = 1000


@dataclass(frozen=True)
class Reading:
    """What one way to ask the network gives: its top-1, and KL(teacher ‖ network) in nats at T = 1 and at T = 4."""

    name: str
    top1: float
    kl: float
    kl_softened: float


@dataclass(frozen=True)
class Weights:
    """The report on stolen weights; `wrong` has one reading per random key, on the first IMAGES_PER_KEY images."""

    teacher_top1: float
    right: Reading
    right_of_part: Reading
    without: Reading
    recalibrated: Reading
    renormalised: Reading
    wrong: list[Reading]
    near: list[Reading]
    lambdas: list[Reading]
    inverted: Reading


def measure(
    box: SafeDistillationBox,
    teacher: Callable[[Tensor], Tensor],
    held: LabelledImages,
    test: LabelledImages,
    device: torch.device,
    *,
    keys: int = 100,
    steps: int = INVERSION_STEPS,
    seed: int = 0,
) -> Weights:
    """Readings on `test`; the trigger and the keyed normalisation are sought with the labelled images `held`, none of
    which is in `test`, and batch normalisation is recalibrated with them.

    One view each, for the teacher and the network alike. Wrong keys and none are tried on the network as it is stolen;
    a key or a λ that is nearly right with the keyed normalisation, which who has it so nearly may have too.
    """
    box.eval()
    network, keyed = box.network, box.keyed_network
    part = LabelledImages(test.images[:IMAGES_PER_KEY], test.labels[:IMAGES_PER_KEY], test.classes)
    known = predict(teacher, test.images, device)

    def read(name: str, answer: Callable[[Tensor], Tensor], images: LabelledImages) -> Reading:
        logits, target = predict(answer, images.images, device), known[: len(images)]
        return Reading(
            name, top1(logits, images.labels), kl_divergence(target, logits), kl_divergence(target, logits, TEMPERATURE)
        )

    right = Guess(box.key, box.lam)
    sought = sought_guess(network, held.images, held.labels, lam=box.lam, steps=steps, seed=seed)
    return Weights(
        teacher_top1=top1(known, test.labels),
        right=read("the right key", asked(keyed, right), test),
        right_of_part=read("the right key", asked(keyed, right), part),
        without=read("no key", box.without_key, test),
        recalibrated=read("no key, recalibrated", recalibrated(network, held.images), test),
        renormalised=read(
            "sought normalisation", renormalised(network, held.images, held.labels, steps=steps, seed=seed), test
        ),
        wrong=[
            read(f"key {n}", asked(network, random_guess(box.shape, box.lam, seed + n)), part)
            for n in followed(range(keys), "wrong keys")
        ],
        near=[
            read(f"{share:.0%} of the pixels wrong", asked(keyed, near_guess(box.key, box.lam, share, seed)), part)
            for share in WRONG_PIXELS
        ],
        lambdas=[read(f"λ = {lam:g}", asked(keyed, Guess(box.key, lam)), part) for lam in WRONG_LAMBDAS],
        inverted=read("inverted trigger", asked(network, sought), test),
    )
