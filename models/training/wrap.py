"""From a trained classifier to a Safe Distillation Box bundle: fine-tune the teacher if asked, calibrate, train, test.

Knows the order of the work; the loop, the losses and the box are elsewhere. The test set is read once, at the end; the
validation split is for looking at, nothing is chosen by it. A fine-tuned teacher is kept as `WORK/teacher.safetensors`.
"""

import copy
import hashlib
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from lightning_fabric import Fabric
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from models import bundles, losses
from models.backbones import Classifier, build
from models.bundles import GuardSpec, InputSpec, Manifest
from models.data import DataError, LabelledImages, check_classes, load
from models.guard import SafeDistillationBox, embed
from models.metrics import top1
from models.release import FEWEST_IMAGES
from models.training.figures import averaged, figures
from models.training.loop import Batch, Recipe, Step, predict, train
from models.views import random_views

CALIBRATION_IMAGES = 8192
TAUGHT_VIEWS = 2  # the box learns the teacher's mean over an image and its mirror


@dataclass(frozen=True)
class Mixture:
    """How much each part of the Safe Distillation Box counts in the loss."""

    keyed: float = 0.5  # cross-entropy of the keyed rows
    unkeyed: float = 0.5  # cross-entropy of the un-keyed rows
    preservation: float = 1.0
    disturbance: float = 0.1
    wrong_keys: float = 0.25  # share of the un-keyed rows that carry a random wrong key


@dataclass(frozen=True)
class Plan:
    """Everything that decides what `wrap` makes."""

    name: str
    version: str
    architecture: str
    weights: Path
    data: Path
    input: InputSpec
    guard: GuardSpec
    recipe: Recipe
    teacher_recipe: Recipe | None
    held_out: int | None
    command: str
    mixture: Mixture = Mixture()


def wrap(plan: Plan, secret: bytes, out: Path, work: Path, fabric: Fabric) -> Manifest:
    """Train the box of `plan` and write its bundle to `out`; checkpoints go to `work`, to be resumed from.

    Raises:
        DataError, BundleError, Interrupted, CheckpointMismatch: each says what to do.
    """
    spec, device, views, facts = plan.input, fabric.device, plan.guard.views, _facts(plan)
    check_classes(plan.data)
    everything = load(plan.data, "train", spec.height, spec.width)
    training, held_out = everything.split(plan.held_out or min(len(everything) // 10, 5000), plan.recipe.seed)
    del everything
    if len(training) < FEWEST_IMAGES:
        raise DataError(f"at least {FEWEST_IMAGES} training images are needed, {plan.data} leaves {len(training)}")
    manifest = Manifest(
        name=plan.name,
        version=plan.version,
        architecture=plan.architecture,
        classes=training.classes,
        input=spec,
        guard=plan.guard,
        provenance={
            "command": plan.command,
            **{name: facts[name] for name in ("teacher", "box", "mixture", "weights_sha256")},
            "torch": torch.__version__,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        },
    )
    box = bundles.assemble(manifest, secret)
    teacher = _teacher(plan, facts, fabric, training=training, held_out=held_out, work=work)
    box.network.load_state_dict(teacher.state_dict())
    box.release.calibrate(training.images[:CALIBRATION_IMAGES])
    frozen = copy.deepcopy(box).requires_grad_(False).to(device)
    known = predict(partial(averaged, teacher, views), held_out.images, device)

    def validate(network: nn.Module) -> dict[str, float]:
        frozen.network = network
        return figures(known, frozen, views, held_out, device)

    box.network = train(
        fabric,
        box.network,
        training,
        box_step(teacher, frozen, plan.guard.temperature, plan.mixture),
        plan.recipe,
        title="box",
        identity=facts,
        checkpoint=work / "box.pt",
        validate=validate,
    )
    test = load(plan.data, "test", spec.height, spec.width)
    bare = predict(partial(averaged, teacher, views), test.images, device)
    measured = figures(bare, box.to(device), views, test, device)
    measured["top1_teacher_one_view"] = top1(predict(teacher, test.images, device), test.labels)
    metrics = {f"test_{name}": round(value, 4) for name, value in measured.items()}
    finished = manifest.model_copy(update={"metrics": metrics})
    return bundles.save(out, finished, box.state_dict()) if fabric.is_global_zero else finished


def _facts(plan: Plan) -> dict[str, object]:
    """What decides the training beside the pictures themselves: a checkpoint is recognised by it."""
    return {
        "architecture": plan.architecture,
        "data": plan.data.name,
        "teacher": None if plan.teacher_recipe is None else asdict(plan.teacher_recipe),
        "box": asdict(plan.recipe),
        "mixture": asdict(plan.mixture),
        "input": plan.input.model_dump(),
        "guard": plan.guard.model_dump(),
        "weights_sha256": hashlib.sha256(plan.weights.read_bytes()).hexdigest(),
    }


def _teacher(
    plan: Plan,
    facts: Mapping[str, object],
    fabric: Fabric,
    *,
    training: LabelledImages,
    held_out: LabelledImages,
    work: Path,
) -> Classifier:
    spec = plan.input
    backbone = build(plan.architecture, len(training.classes))
    try:
        backbone.load_state_dict(load_file(plan.weights))
    except (OSError, RuntimeError, SafetensorError) as error:
        message = f"{plan.weights} does not fit {plan.architecture}: {error}"
        raise bundles.BundleError(message) from error
    teacher = Classifier(backbone, spec.mean, spec.std)
    if plan.teacher_recipe is not None:

        def step(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
            return {"ce": F.cross_entropy(model(random_views(batch.images, batch.generator)), batch.labels)}

        def validate(model: nn.Module) -> dict[str, float]:
            return {"top1": top1(predict(model, held_out.images, fabric.device), held_out.labels)}

        train(
            fabric,
            teacher,
            training,
            step,
            plan.teacher_recipe,
            title="teacher",
            identity={name: facts[name] for name in ("architecture", "data", "input", "weights_sha256")},
            checkpoint=work / "teacher.pt",
            validate=validate,
        )
        if fabric.is_global_zero:
            tensors = {name: tensor.cpu().contiguous() for name, tensor in teacher.backbone.state_dict().items()}
            save_file(tensors, work / "teacher.safetensors")
    return teacher.eval().requires_grad_(False).to(fabric.device)


def box_step(teacher: nn.Module, box: SafeDistillationBox, temperature: float, mixture: Mixture) -> Step:
    """The step that trains the box's network: key embedding, preservation, disturbance, augmentation (module docs).

    `teacher` and `box` are frozen; the box lends its key, λ and release stage.
    """

    def step(network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        images, labels = random_views(batch.images, batch.generator), batch.labels
        with torch.no_grad():
            soft = averaged(teacher, TAUGHT_VIEWS, images)
            disturbed = box.release(images, F.one_hot(labels, soft.shape[1]).to(soft.dtype))
        negatives = round(mixture.wrong_keys * len(images))
        wrong = torch.rand(negatives, *images.shape[1:], generator=batch.generator).to(images.device)
        unkeyed = torch.cat([embed(images[:negatives], wrong, box.lam), images[negatives:]])
        logits = network(torch.cat([embed(images, box.key, box.lam), unkeyed]))
        keyed, bare = logits[: len(images)], logits[len(images) :]
        return {
            "keyed": mixture.keyed * F.cross_entropy(keyed, labels),
            "preserve": mixture.preservation * losses.knowledge_preservation(keyed, soft, temperature),
            "unkeyed": mixture.unkeyed * F.cross_entropy(bare, labels),
            "disturb": mixture.disturbance * losses.knowledge_disturbance(bare, disturbed, labels, temperature),
        }

    return step
