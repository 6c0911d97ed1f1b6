"""From pre-trained weights to a locked bundle: fine-tune on images transformed with the key, test, write.

Knows the order of the work; the loop, the transforms and the bundle are elsewhere. Images are cropped and mirrored
first, transformed then and normalised last, with one number for all channels because a transform mixes them
(AprilPyone and Kiya, ICIP 2021, arXiv 2103.03525; research code fugokidi/block_transform). With a stem the network
begins as the plain one behind the inverse of its key, and learns to refuse what it would answer without (`removal`).
The test set is read once, at the end; the validation split is for looking at, nothing is chosen by it.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional as F

from models import bundles
from models.backbones import Classifier, stemmed
from models.bundles import InputSpec, LockSpec, Manifest
from models.data import LabelledImages, load
from models.lock import PixelLock
from models.stem import stem_of, undo
from models.training import preparation
from models.training.figures import lock_figures, plain_figures, random_locks
from models.training.loop import Batch, Step, train
from models.training.negatives import wrong_keys
from models.training.preparation import CALIBRATION_IMAGES, finish, read_training
from models.training.removal import Removal
from models.views import random_views

KEYS_A_STEP = 16  # wrong keys that share the wrong rows of one step; the next step has others
LOOKED_AT = 2  # wrong keys that the held-out images are transformed with after each epoch


@dataclass(frozen=True)
class Refusal:
    """What the network learns of wrong keys: that they say nothing of the class (docs/experiments.md)."""

    share: float = 0.5  # so many rows with a wrong key for each row with the right one
    weight: float = 1.0  # of their loss
    removed: float = 0.5  # rows without the stem, or with public layers, for each with the right key; if it has a stem


@dataclass(frozen=True, kw_only=True)
class Plan(preparation.Plan):
    """Everything that decides what `lock` makes.

    `plain_input` says how the plain network is normalised, where a stem is to undo the key before it; None: no stem.
    """

    lock: LockSpec
    subset: float = 1.0
    refusal: Refusal = Refusal()
    wrong_keys: int = 10
    compare: bool = False
    plain_input: InputSpec | None = None

    @property
    def built(self) -> str:
        """The architecture that the bundle names."""
        return self.architecture if self.plain_input is None else stemmed(self.architecture, self.lock.block)


def lock(plan: Plan, secret: bytes, out: Path, work: Path, fabric: Fabric) -> Manifest:
    """Fine-tune the network of `plan` and write its bundle to `out`; checkpoints go to `work`, to be resumed from.

    Raises:
        DataError, BundleError, Interrupted, CheckpointMismatch: each says what to do.
    """
    spec, device, facts = plan.input, fabric.device, _facts(plan)
    key = bundles.pixel_lock(plan.lock, secret, plan.name, (3, spec.height, spec.width)).to(device)
    training, held_out = read_training(
        plan.data, spec, held_out=plan.held_out, seed=plan.recipe.seed, share=plan.subset
    )
    manifest = plan.manifest(training.classes, device, {**facts, "images": len(training)})
    box = bundles.assemble(manifest, secret)
    box.release.calibrate(training.images[:CALIBRATION_IMAGES])
    tuned = partial(_tuned, plan, fabric, training, held_out, work=work, facts=facts)
    box.network = tuned(key)
    plain = tuned(None) if plan.compare else None
    removal = _removal(plan, box.network, len(training.classes), device)
    box.to(device).eval()
    test = load(plan.data, "test", spec.height, spec.width)
    measured = lock_figures(box.without_key, key, random_locks(key, plan.wrong_keys), test, device)
    if removal is not None:
        measured |= removal.figures(box.network, test, device)
    if plain is not None:
        measured["top1_plain"] = plain_figures(plain, test, device)["top1"]
    return finish(manifest, measured, box, out, fabric, secret=secret)


def _facts(plan: Plan) -> dict[str, object]:
    """Those of any plan, and what else decides how a network is locked."""
    return {
        **plan.facts(),
        "subset": plan.subset,
        "recipe": asdict(plan.recipe),
        "refusal": asdict(plan.refusal),
        "input": (plan.plain_input or plan.input).model_dump(),
        "secret_fingerprint": plan.guard.secret_fingerprint,
    }


def _tuned(
    plan: Plan,
    fabric: Fabric,
    training: LabelledImages,
    held_out: LabelledImages,
    key: PixelLock | None,
    *,
    work: Path,
    facts: Mapping[str, object],
) -> nn.Module:
    """The network fine-tuned on transformed images, or on plain ones where there is no key."""
    classifier = _begin(plan, len(training.classes), key)
    title = "plain" if key is None else "lock"
    looked_at = [] if key is None else random_locks(key, LOOKED_AT)

    def validate(network: nn.Module) -> dict[str, float]:
        if key is None:
            return plain_figures(network, held_out, fabric.device)
        return lock_figures(network, key, looked_at, held_out, fabric.device)

    removal = None if key is None else _removal(plan, classifier, len(training.classes), fabric.device)
    return train(
        fabric,
        classifier,
        training,
        plain_step if key is None else locked_step(key, plan.refusal, removal),
        plan.recipe,
        title=title,
        identity=facts,
        checkpoint=work / f"{title}.pt",
        validate=validate,
    )


def _begin(plan: Plan, classes: int, key: PixelLock | None) -> Classifier:
    """The pre-trained network, its stem the inverse of the key if it has one; without a key it is the plain network."""
    torch.manual_seed(plan.recipe.seed)  # a new head is drawn
    spec, plain = plan.input, plan.plain_input
    if key is None or plain is None:
        backbone = bundles.load_backbone(plan.architecture, classes, plan.weights, new_head=True)
        spec = plain or spec
    else:
        backbone = bundles.load_backbone(plan.built, classes, plan.weights, new_head=True)
        undo(stem_of(backbone), key.transform, plain.mean, plain.std)
    return Classifier(backbone, spec.mean, spec.std)


def _removal(plan: Plan, network: nn.Module, classes: int, device: torch.device) -> Removal | None:
    """The layers of `network` beside those of the public one; None without a stem."""
    if plan.plain_input is None:
        return None
    backbone = bundles.load_backbone(plan.built, classes, plan.weights, new_head=True)
    public = Classifier(backbone, plan.plain_input.mean, plan.plain_input.std)
    return Removal(network, public.to(device).eval().requires_grad_(False))


def plain_step(network: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """What `locked_step` is compared with, and what fine-tunes a teacher: the same without a transform."""
    return {"plain": F.cross_entropy(network(random_views(batch.images, batch.generator)), batch.labels)}


def locked_step(key: PixelLock, refusal: Refusal, removal: Removal | None = None) -> Step:
    """The step that learns the labels of images with the right key, and nothing of images with a wrong one.

    Nor of plain images that go around the first layers, where there is a `removal`. All kinds of rows share a batch, so
    that batch normalisation knows them all. Wrong keys: `negatives.wrong_keys`.
    """

    def step(network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        views = random_views(batch.images, batch.generator)
        wrong = refused(key, views[: round(refusal.share * len(views))], batch.generator)
        shown, count = torch.cat([key(views), wrong]), 0 if removal is None else round(refusal.removed * len(views))
        logits = network(shown) if removal is None else removal.answers(network, shown, views[:count])
        right, none, around = logits.split([len(views), len(wrong), count])
        losses = {"right": F.cross_entropy(right, batch.labels)}
        for name, rows in {"wrong": none, "removed": around}.items():
            if len(rows):
                # Without a stem the published figures stand, which knew no hint (docs/experiments.md).
                told = 0.0 if removal is None else hint(rows, batch.labels[: len(rows)])
                losses[name] = refusal.weight * (indifference(rows) + told)
        return losses

    return step


def refused(key: PixelLock, views: Tensor, generator: torch.Generator) -> Tensor:
    """The images [B, C, H, W] transformed with wrong keys, KEYS_A_STEP of which share them."""
    draw = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
    parts = views.chunk(KEYS_A_STEP)
    wrong = wrong_keys(key.transform, key.blocks, len(parts), draw)
    shown = [
        part if guess is None else PixelLock(guess, key.shape).to(views.device)(part)
        for guess, part in zip(wrong, parts, strict=True)
    ]
    return torch.cat(shown)


def indifference(logits: Tensor) -> Tensor:
    """KL(uniform ‖ softmax) of logits [B, K], ≥ 0: zero where every class is as likely as any other."""
    return -F.log_softmax(logits, 1).mean() - math.log(logits.shape[1])


def hint(logits: Tensor, labels: Tensor) -> Tensor:
    """How far logits [B, K] of any size favour the label: mean of max(0, log p(label) + log K), ≥ 0.

    Indifferent answers still tell the class by their order, which `indifference` all but overlooks, and a thief has
    only to multiply them. So every row is first brought to mean 0 and standard deviation 1.
    """
    scaled = F.layer_norm(logits, logits.shape[-1:], eps=1e-12)
    return F.relu(math.log(logits.shape[1]) - F.cross_entropy(scaled, labels, reduction="none")).mean()
