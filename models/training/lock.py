"""From pre-trained weights to a locked bundle: fine-tune on images transformed with the key, test, write.

Knows the order of the work; the loop, the transforms and the bundle are elsewhere. Images are cropped and mirrored
first, transformed then and normalised last, with one number for all channels because a transform mixes them
(AprilPyone and Kiya, ICIP 2021, arXiv 2103.03525; research code fugokidi/block_transform). With a stem the network
begins as the plain one behind the inverse of its key, learns to refuse what it would answer without (`removal`), and
follows the plain one, fine-tuned on the same images, in what it answers with the key.
The test set is read once, at the end; the validation split is for looking at, nothing is chosen by it.
"""

import math
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional as F

from models import bundles
from models.backbones import Classifier, stemmed
from models.bundles import InputSpec, LockSpec, Manifest
from models.data import load
from models.lock import PixelLock
from models.losses import knowledge_preservation
from models.stem import stem_of, undo
from models.training import preparation
from models.training.figures import lock_figures, plain_figures, random_locks
from models.training.loop import Batch, Recipe, Step, train
from models.training.preparation import CALIBRATION_IMAGES, finish, read_training
from models.training.refusal import Refusal, Refusing
from models.training.removal import Removal
from models.views import random_views

LOOKED_AT = 2  # wrong keys that the held-out images are transformed with after each epoch
FEWEST_STEPS = 660  # of all epochs, and of one: what 360 images of Imagenette were locked well in (docs/experiments.md)
FEWEST_STEPS_AN_EPOCH = 11
SMALLEST_BATCH = 32


@dataclass(frozen=True, kw_only=True)
class Plan(preparation.Plan):
    """Everything that decides what `lock` makes.

    `plain_input` says how the plain network is normalised, where a stem is to undo the key before it; None: no stem.
    With a stem the labels count `labels`, and what the fine-tuned plain network answers to the same views counts 1.
    `stretched`: the recipe is for many images, and becomes `enough` for those that there are.
    """

    lock: LockSpec
    subset: float = 1.0
    refusal: Refusal = field(default_factory=Refusal)
    wrong_keys: int = 10
    compare: bool = False
    plain_input: InputSpec | None = None
    labels: float = 0.3
    stretched: bool = False

    @property
    def built(self) -> str:
        """The architecture that the bundle names."""
        return self.architecture if self.plain_input is None else stemmed(self.architecture, self.lock.block)


def lock(plan: Plan, secret: bytes, out: Path, work: Path, fabric: Fabric) -> Manifest:
    """Fine-tune the network of `plan` and write its bundle to `out`; checkpoints go to `work`, to be resumed from.

    Raises:
        DataError, BundleError, Interrupted, CheckpointMismatch: each says what to do.
    """
    spec, device = plan.input, fabric.device
    key = bundles.pixel_lock(plan.lock, secret, plan.name, (3, spec.height, spec.width)).to(device)
    training, held_out = read_training(
        plan.data, spec, held_out=plan.held_out, seed=plan.recipe.seed, share=plan.subset
    )
    if plan.stretched:
        plan = replace(plan, recipe=enough(plan.recipe, len(training) // fabric.world_size))
    facts = _facts(plan)
    manifest = plan.manifest(training.classes, device, {**facts, "images": len(training)})
    box = bundles.assemble(manifest, secret)
    box.release.calibrate(training.images[:CALIBRATION_IMAGES])
    classes = len(training.classes)
    tuned = partial(train, fabric, data=training, recipe=plan.recipe, identity=facts)
    plain = followed = None
    if plan.compare or plan.plain_input is not None:
        plain = tuned(
            _begin(plan, classes, None),
            step=plain_step,
            title="plain",
            checkpoint=work / "plain.pt",
            validate=partial(plain_figures, data=held_out, device=device),
        )
    if plain is not None and plan.plain_input is not None:
        followed = Followed(plain, plan.guard.temperature, plan.labels)
    box.network = _begin(plan, classes, key)
    removal = _removal(plan, box.network, classes, device)
    looked_at = random_locks(key, LOOKED_AT)
    tuned(
        box.network,
        step=locked_step(Refusing(key, plan.refusal, removal), followed),
        title="lock",
        checkpoint=work / "lock.pt",
        validate=lambda network: lock_figures(network, key, looked_at, held_out, device),
    )
    box.to(device).eval()
    test = load(plan.data, "test", spec.height, spec.width)
    measured = lock_figures(box.without_key, key, random_locks(key, plan.wrong_keys), test, device)
    if removal is not None:
        measured |= removal.figures(box.network, test, device)
    if plain is not None:
        measured["top1_plain"] = plain_figures(plain, test, device)["top1"]
    return finish(manifest, measured, box, out, fabric, secret=secret)


def enough(recipe: Recipe, images: int) -> Recipe:
    """`recipe` where it suits so many `images`; where they are few, in smaller batches and for more epochs.

    A network needs so many steps to learn the key's images anew, whichever images they are.
    """
    batch_size = recipe.batch_size
    while batch_size > SMALLEST_BATCH and images < FEWEST_STEPS_AN_EPOCH * batch_size:
        batch_size //= 2
    epochs = math.ceil(FEWEST_STEPS / max(1, images // batch_size))
    return replace(recipe, batch_size=batch_size, epochs=max(recipe.epochs, epochs))


def _facts(plan: Plan) -> dict[str, object]:
    """Those of any plan, and what else decides how a network is locked."""
    return {
        **plan.facts(),
        "subset": plan.subset,
        "recipe": asdict(plan.recipe),
        "refusal": asdict(plan.refusal),
        **({} if plan.plain_input is None else {"labels": plan.labels}),
        "input": (plan.plain_input or plan.input).model_dump(),
        "secret_fingerprint": plan.guard.secret_fingerprint,
    }


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


@dataclass(frozen=True)
class Followed:
    """A trained network of plain images whose answers, softened by a temperature, count 1 where labels count `labels`.

    The private features behind the stem are learned anew from few images; what they are to be worth is known already.
    """

    network: nn.Module
    temperature: float
    labels: float

    def losses(self, answered: Tensor, views: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Of logits [B, K] that were answered with the right key to transformed `views` [B, C, H, W]."""
        with torch.no_grad():
            soft = self.network(views)
        return {
            "right": self.labels * F.cross_entropy(answered, labels),
            "preserve": knowledge_preservation(answered, soft, self.temperature),
        }


def locked_step(refusing: Refusing, followed: Followed | None = None) -> Step:
    """The step that learns the labels of images with the right key, and nothing of what `refusing` shows beside them.

    All kinds of rows share a batch, so that batch normalisation knows them all. With the right key it may also learn
    what a network `followed` answers.
    """

    def step(network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        views = random_views(batch.images, batch.generator)
        wrong = refusing.wrong(views, batch.generator)
        shown = torch.cat([refusing.key(views), wrong])
        answered, around = refusing.answers(network, shown, views, batch.generator)
        right, none = answered.tensor_split([len(views)])
        refused = refusing.losses({"wrong": none}, around, batch.labels)
        if followed is None:
            return {"right": F.cross_entropy(right, batch.labels), **refused}
        return {**followed.losses(right, views, batch.labels), **refused}

    return step
