"""From a trained classifier to a Safe Distillation Box bundle: fine-tune the teacher if asked, calibrate, train, test.

Knows the order of the work; the loop, the losses and the box are elsewhere. The test set is read once, at the end; the
validation split is for looking at, nothing is chosen by it. A fine-tuned teacher is kept as `WORK/teacher.safetensors`.
"""

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import torch
from lightning_fabric import Fabric
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from models import bundles, losses
from models.backbones import Classifier
from models.bundles import InputSpec, LockSpec, Manifest
from models.data import LabelledImages, load
from models.guard import SafeDistillationBox, embed
from models.key_stream import TILE, release_secret, tiled
from models.normalisation import Pair, recalibrate
from models.release import Release, calibrated_levels
from models.stem import stem_of
from models.training import preparation
from models.training.figures import averaged, figures, lock_figures, plain_figures, random_locks, served
from models.training.lock import plain_step
from models.training.loop import Batch, Recipe, Step, predict, train
from models.training.preparation import CALIBRATION_IMAGES, finish, read_training, sha256_of
from models.training.refusal import Refusal, Refusing
from models.training.removal import Removal
from models.views import random_views

MADE_OF = ("teacher", "box", "mixture", "refusal", "weights_sha256", "public_sha256")  # of what decides a box
WRONG_LOCK_KEYS = 10  # that a locked box is measured with
TAUGHT_PASSES = 2  # the box learns the teacher's mean over an image and its mirror


@dataclass(frozen=True)
class Mixture:
    """How much each part of the Safe Distillation Box counts in the loss."""

    keyed: float = 0.3  # cross-entropy of the keyed rows with the labels
    unkeyed: float = 0.5  # cross-entropy of the un-keyed rows with the teacher's top-1
    preservation: float = 1.0
    disturbance: float = 0.3  # as far as the collapse guard lets it
    confidence: float = 0.9  # of the top-1 in the vectors that the un-keyed rows learn
    scale: float = 6.0  # of the false peaks in them


@dataclass(frozen=True, kw_only=True)
class Plan(preparation.Plan):
    """Everything that decides what `wrap` makes; with a lock, that of the teacher, which sees images transformed.

    Of a lock, `plain_input` is carried on: how the network was normalised that a lock with a stem began from; that
    network's weights are `public`, if the owner has them yet.
    """

    lock: LockSpec | None = None
    plain_input: InputSpec | None = None
    public: Path | None = None
    refusal: Refusal = field(default_factory=Refusal)
    teacher_recipe: Recipe | None
    confidence_levels: int = 1
    mixture: Mixture = Mixture()


def wrap(plan: Plan, secret: bytes, out: Path, work: Path, fabric: Fabric) -> Manifest:
    """Train the box of `plan` and write its bundle to `out`; checkpoints go to `work`, to be resumed from.

    Raises:
        DataError, BundleError, Interrupted, CheckpointMismatch: each says what to do.
    """
    spec, device, passes, facts = plan.input, fabric.device, plan.guard.passes, _facts(plan)
    training, held_out = read_training(plan.data, spec, held_out=plan.held_out, seed=plan.recipe.seed)
    made_of = {name: facts[name] for name in MADE_OF if name in facts}
    if plan.plain_input is not None:
        made_of["input"] = plan.plain_input.model_dump()
    manifest = plan.manifest(training.classes, device, made_of)
    box = bundles.assemble(manifest, secret)
    classifier = _teacher(plan, facts, fabric, training=training, held_out=held_out, work=work)
    for network in (box.network, box.keyed_network):
        network.load_state_dict(classifier.state_dict())
    box.release.calibrate(training.images[:CALIBRATION_IMAGES])
    frozen = copy.deepcopy(box).requires_grad_(False).to(device)
    teacher = classifier if frozen.lock is None else nn.Sequential(frozen.lock, classifier)
    disturbing = _disturbing(plan.mixture, box.release, secret).to(device)
    known = predict(partial(averaged, teacher, passes), held_out.images, device)
    removal = _removal(plan, box.network, len(training.classes), device)
    refusing = None if frozen.lock is None else Refusing(frozen.lock, plan.refusal, removal)

    def validate(pair: nn.Module) -> dict[str, float]:
        frozen.network, frozen.twin = pair.get_submodule("network"), pair.get_submodule("twin")
        return figures(known, frozen, held_out, device)

    train(
        fabric,
        Pair(box.network, box.keyed_network),
        training,
        box_step(
            teacher,
            frozen,
            disturbing,
            temperature=plan.guard.temperature,
            mixture=plan.mixture,
            refusing=refusing,
        ),
        plan.recipe,
        title="box",
        identity=facts,
        checkpoint=work / "box.pt",
        validate=validate,
    )
    box.to(device).eval()
    # Un-keyed rows were of two kinds. A thief would do this; so what is measured is what there is. But a locked network
    # refuses by the statistics that it has learned to refuse with.
    if box.twin is not None and box.lock is None:
        recalibrate(box.network, training.images[:CALIBRATION_IMAGES])
    if plan.confidence_levels > 1:
        manifest, box = _levelled(plan.confidence_levels, manifest, box, secret, held_out=held_out, device=device)
    test = load(plan.data, "test", spec.height, spec.width)
    bare = predict(partial(averaged, teacher, passes), test.images, device)
    measured = figures(bare, box, test, device)
    measured["top1_teacher_one_pass"] = plain_figures(teacher, test, device)["top1"]
    if box.lock is not None:
        measured |= lock_figures(box.with_key, box.lock, random_locks(box.lock, WRONG_LOCK_KEYS), test, device)
    if removal is not None:
        around = removal.figures(box.network, test, device)
        measured |= around if plan.public is not None else {"top1_without_stem": around["top1_without_stem"]}
    return finish(manifest, measured, box, out, fabric, secret=secret)


def _facts(plan: Plan) -> dict[str, object]:
    """Those of any plan, and what else decides a box."""
    return {
        **plan.facts(),
        "teacher": None if plan.teacher_recipe is None else asdict(plan.teacher_recipe),
        "box": asdict(plan.recipe),
        "mixture": asdict(plan.mixture),
        "guard": plan.guard.model_dump(),
        **({} if plan.lock is None else {"refusal": asdict(plan.refusal)}),
        **({} if plan.public is None else {"public_sha256": sha256_of(plan.public)}),
    }


def _disturbing(mixture: Mixture, release: Release, secret: bytes) -> Release:
    """The release stage whose vectors the un-keyed rows learn: with false peaks of its own, calibrated alike."""
    classes, own = release.projection.shape[1], release_secret(secret, b"", "training")
    disturbing = Release(own, classes, scale=mixture.scale, confidences=(mixture.confidence,))
    disturbing.load_state_dict(release.state_dict())
    return disturbing


def _levelled(
    levels: int,
    manifest: Manifest,
    box: SafeDistillationBox,
    secret: bytes,
    *,
    held_out: LabelledImages,
    device: torch.device,
) -> tuple[Manifest, SafeDistillationBox]:
    """The same box with so many levels of public confidence, calibrated on held-out images."""
    own = predict(partial(served, box), held_out.images, device)
    confidences, edges = calibrated_levels(own, held_out.labels, levels)
    guard = manifest.guard.model_copy(update={"confidences": confidences, "confidence_edges": edges})
    manifest = manifest.model_copy(update={"guard": guard})
    levelled = bundles.assemble(manifest, secret)
    levelled.load_state_dict(box.state_dict())
    return manifest, levelled.to(device).eval()


def _teacher(
    plan: Plan,
    facts: Mapping[str, object],
    fabric: Fabric,
    *,
    training: LabelledImages,
    held_out: LabelledImages,
    work: Path,
) -> Classifier:
    """The network of `plan`; one that is fine-tuned first may come from weights for another number of classes."""
    spec, tuned = plan.input, plan.teacher_recipe is not None
    torch.manual_seed(plan.recipe.seed)  # a new head is drawn
    backbone = bundles.load_backbone(plan.architecture, len(training.classes), plan.weights, new_head=tuned)
    teacher = Classifier(backbone, spec.mean, spec.std)
    if plan.teacher_recipe is not None:
        train(
            fabric,
            teacher,
            training,
            plain_step,
            plan.teacher_recipe,
            title="teacher",
            identity={name: facts[name] for name in ("architecture", "data", "input", "weights_sha256")},
            checkpoint=work / "teacher.pt",
            validate=partial(plain_figures, data=held_out, device=fabric.device),
        )
        if fabric.is_global_zero:
            tensors = {name: tensor.cpu().contiguous() for name, tensor in teacher.backbone.state_dict().items()}
            save_file(tensors, work / "teacher.safetensors")
    return teacher.eval().requires_grad_(False).to(fabric.device)


def _removal(plan: Plan, network: nn.Module, classes: int, device: torch.device) -> Removal | None:
    """The layers of `network` beside those of the public one; None without a lock that has a stem.

    Where the public weights are gone the network itself stands for them, and only its stem is taken out.
    """
    if plan.plain_input is None:
        return None
    backbone = bundles.load_backbone(plan.architecture, classes, plan.public or plan.weights, new_head=True)
    stem_of(backbone).reset()
    public = Classifier(backbone, plan.plain_input.mean, plan.plain_input.std)
    return Removal(network, public.to(device).eval().requires_grad_(False))


def box_step(
    teacher: nn.Module,
    box: SafeDistillationBox,
    disturbing: Release,
    *,
    temperature: float,
    mixture: Mixture,
    refusing: Refusing | None = None,
) -> Step:
    """The step that trains a `Pair`, the box's network and its twin: key embedding, preservation and disturbance.

    `teacher`, `box` and `disturbing` are frozen; the box lends its key and λ, and the un-keyed rows learn to answer
    what `disturbing` makes of the teacher's top-1. Half of them carry a wrong key, and are to answer as if they
    carried none: without such negatives any key unlocks a network that has nothing to normalise. Where the box has a
    lock the teacher has it in front of it, all of these rows pass it, and others are `refusing` the lock's wrong keys.
    """

    def step(pair: nn.Module, batch: Batch) -> dict[str, Tensor]:
        views = random_views(batch.images, batch.generator)
        images = views if box.lock is None else box.lock(views)
        with torch.no_grad():
            soft = averaged(teacher, TAUGHT_PASSES, views)
            disturbed = disturbing(views, soft)
        wrong = wrong_keys(box.key, len(images) // 2, batch.generator)
        unkeyed = torch.cat([embed(images[: len(wrong)], wrong, box.lam), images[len(wrong) :]])
        bare, keyed, refused = answers(pair, unkeyed, images, views, batch)
        weight = mixture.disturbance * losses.collapse_guard(bare, keyed, soft)
        return {
            "keyed": mixture.keyed * F.cross_entropy(keyed, batch.labels),
            "preserve": mixture.preservation * losses.knowledge_preservation(keyed, soft, temperature),
            "unkeyed": mixture.unkeyed * F.cross_entropy(bare, soft.argmax(1)),
            "disturb": weight * losses.knowledge_disturbance(bare, disturbed, temperature),
            **refused,
        }

    def answers(
        pair: nn.Module, unkeyed: Tensor, images: Tensor, views: Tensor, batch: Batch
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Logits of the un-keyed and the keyed rows, and the losses of those that are refused in the same batches."""
        if refusing is None:
            return (*pair(unkeyed, embed(images, box.key, box.lam)), {})
        wrong, keyed = refusing.wrong(views, batch.generator), views.new_zeros(0)

        def unkeyed_network(shown: Tensor) -> Tensor:
            nonlocal keyed
            bare: Tensor
            bare, keyed = pair(shown, embed(torch.cat([images, wrong]), box.key, box.lam))
            return bare

        # Around the stem there is the un-keyed network only: the other's normalisation is sealed.
        bare, around = refusing.answers(unkeyed_network, torch.cat([unkeyed, wrong]), views, batch.generator)
        (bare, none), (keyed, none_keyed) = (rows.tensor_split([len(images)]) for rows in (bare, keyed))
        return bare, keyed, refusing.losses({"wrong": none, "wrong_keyed": none_keyed}, around, batch.labels)

    return step


def wrong_keys(key: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` keys [count, C, H, W] other than κ [C, H, W]: other tiles, noise, κ with 30 % or more of it wrong."""
    channels, height, width = key.shape
    noise = torch.rand(count, channels, height, width, generator=generator).to(key.device)
    tiles = tiled(noise[:, :, :TILE, :TILE].round(), height, width)
    share = 0.3 + 0.7 * torch.rand(count, 1, 1, 1, generator=generator)
    near = torch.where((torch.rand(count, 1, height, width, generator=generator) < share).to(key.device), noise, key)
    kind = torch.arange(count, device=key.device).view(-1, 1, 1, 1) % 3
    return torch.where(kind == 0, tiles, torch.where(kind == 1, noise, near))
