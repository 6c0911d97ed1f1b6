"""What is compared: reference students, key holders, attackers and thieves, each a way to make one student.

Knows who may have what; how long a student trains and how it is tested is `study`'s business.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from functools import partial

import torch
from torch import Tensor, nn

from models.attacks.attacker import Attacker, Trainer
from models.attacks.augmentations import view
from models.attacks.oracle import Metered, Oracle, Remembered
from models.attacks.suite import ATTACKS, Attack
from models.data import LabelledImages
from models.training.student import shown

REFERENCE, KEY_HOLDER, ATTACK, THIEF = "reference", "key holder", "attack", "thief"
LABELLED, UNLABELLED, FOREIGN = "labelled", "unlabelled", "out of distribution"
SHARES = (0.1, 0.5)  # of the images: what fewer queries are worth
BUDGETED = ("hard labels", "soft labels, T = 4, α = 1", "mixing with labels", "ridge regression")
VIEWS = (2, 4, 8, 16)
PAIRS = 0.1  # share of the images
TEMPERATURE = 4.0
FINE_TUNED_ON = (100, 1000)  # labelled images
FINE_TUNING_EPOCHS = 20

Learn = Callable[[Trainer], tuple[nn.Module, Metered]]


@dataclass(frozen=True)
class Arm:
    """One way to make a student: who does it, what the images are, and what it does.

    `depends` names what decides the result beside the model and its images: the teacher's weights, foreign images.
    """

    group: str
    name: str
    holdings: str
    share: float
    learn: Learn
    depends: str = ""


@dataclass(frozen=True)
class Doors:
    """What answers whom. A door that is None is not there: what needs it is left out.

    `public` is everybody's, `authorised` the key holder's, `teacher` the bare teacher's; `thieves` are the ways to ask
    stolen weights without their key, `networks` what can be fine-tuned: stolen weights and a public backbone, by name.
    `teacher_identity` tells one teacher from another.
    """

    public: Oracle
    authorised: Oracle | None
    teacher: Oracle | None
    thieves: dict[str, Oracle] = field(default_factory=dict)
    networks: dict[str, Callable[[], nn.Module]] = field(default_factory=dict)
    teacher_identity: str = ""


@dataclass(frozen=True)
class Holdings:
    """The images: `own` are the ones the students learn from, `foreign` [N, 3, H, W] are of another distribution.

    Of `PAIRS` of the images an attacker may have the undisturbed answers. `foreign_identity` tells one set of foreign
    images from another.
    """

    own: LabelledImages
    foreign: Tensor | None = None
    foreign_identity: str = ""


def arms(doors: Doors, holdings: Holdings, *, chosen: str, epochs: int) -> list[Arm]:
    """All arms whose "group: name" one of the comma-separated patterns `chosen` matches, in the order of the report.

    Who trains for `epochs` can be shown as many views of an image and no more.
    """
    everything = [
        *_references(doors, holdings),
        *_key_holders(doors, holdings, [count for count in VIEWS if count <= epochs]),
        *_attackers(doors, holdings),
        *_thieves(doors, holdings),
    ]
    patterns = [pattern.strip() for pattern in chosen.split(",")]
    return [arm for arm in everything if any(fnmatch(f"{arm.group}: {arm.name}", pattern) for pattern in patterns)]


def _references(doors: Doors, holdings: Holdings) -> Iterator[Arm]:
    own = holdings.own

    def alone(trainer: Trainer, smoothing: float) -> tuple[nn.Module, Metered]:
        nothing = torch.zeros(len(own), len(own.classes))
        student = trainer.distil(own.images, own.labels, nothing, temperature=1, alpha=0, smoothing=smoothing)
        return student, Metered(doors.public)

    yield Arm(REFERENCE, "alone", LABELLED, 1.0, partial(alone, smoothing=0.0))
    yield Arm(REFERENCE, "alone, label smoothing", LABELLED, 1.0, partial(alone, smoothing=0.1))
    if doors.teacher is not None:
        depends = doors.teacher_identity
        yield from _distilled(REFERENCE, "bare teacher", doors.teacher, own, depends)
        live = partial(_shown_views, doors.teacher, own, count=None, alpha=0.9)
        yield Arm(REFERENCE, "bare teacher, live views", LABELLED, 1.0, live, depends)
        for share in SHARES:
            part = own.subset(torch.arange(round(share * len(own))))
            learn = partial(_one_label, doors.teacher, part, alpha=1.0)
            yield Arm(REFERENCE, "bare teacher, one label, α = 1", UNLABELLED, share, learn, depends)


def _key_holders(doors: Doors, holdings: Holdings, views: list[int]) -> Iterator[Arm]:
    if doors.authorised is None:
        return
    authorised = Remembered(doors.authorised)  # as a partner's cache does: no view is paid for twice
    yield from _distilled(KEY_HOLDER, "key", authorised, holdings.own)
    for count in views:
        learn = partial(_shown_views, authorised, holdings.own, count=count, alpha=0.9)
        yield Arm(KEY_HOLDER, f"key, {count} views", LABELLED, 1.0, learn)


def _distilled(group: str, name: str, oracle: Oracle, own: LabelledImages, depends: str = "") -> Iterator[Arm]:
    for alpha, holds in ((0.9, LABELLED), (1.0, UNLABELLED)):
        learn = partial(_one_label, oracle, own, alpha=alpha)
        yield Arm(group, f"{name}, one label, α = {alpha:g}", holds, 1.0, learn, depends)


def _one_label(oracle: Oracle, own: LabelledImages, trainer: Trainer, *, alpha: float) -> tuple[nn.Module, Metered]:
    """Distillation with one soft label per image, asked for once, while the student sees crops and mirrors of it."""
    door = Metered(oracle)
    soft = door.query(own.images)
    return trainer.distil(own.images, own.labels, soft, temperature=TEMPERATURE, alpha=alpha), door


def _shown_views(
    oracle: Oracle, own: LabelledImages, trainer: Trainer, *, count: int | None, alpha: float
) -> tuple[nn.Module, Metered]:
    """Distillation with `count` views of each image and a soft label for each; None is a view per epoch, live views."""
    door, epochs = Metered(oracle), trainer.recipe.epochs
    generator = torch.Generator().manual_seed(trainer.recipe.seed)
    views = torch.stack([view(own.images, generator) for _ in range(count or epochs)])
    soft = torch.stack([door.query(images) for images in views])
    step = shown(views, soft, epochs, temperature=TEMPERATURE, alpha=alpha)
    return trainer.fit(own.images, own.labels, step), door


def _attackers(doors: Doors, holdings: Holdings) -> Iterator[Arm]:
    own, remembered = holdings.own, Remembered(doors.public)
    clean = None if doors.authorised is None else Remembered(doors.authorised)
    for attack in ATTACKS:
        if attack.uses_clean and clean is None:
            continue
        public = doors.public if attack.asks_again else remembered
        steal = partial(_steal, attack, public, clean if attack.uses_clean else None)
        yield Arm(ATTACK, attack.name, UNLABELLED, 1.0, partial(steal, own.images, None))
        if attack.uses_labels:
            yield Arm(ATTACK, attack.name, LABELLED, 1.0, partial(steal, own.images, own.labels))
        if attack.name not in BUDGETED:
            continue
        for share in SHARES:
            part = own.images[: round(share * len(own))]
            yield Arm(ATTACK, attack.name, UNLABELLED, share, partial(steal, part, None))
        if holdings.foreign is not None:
            learn = partial(steal, holdings.foreign, None)
            yield Arm(ATTACK, attack.name, FOREIGN, 1.0, learn, holdings.foreign_identity)


def _steal(  # noqa: PLR0917 - bound one after the other
    attack: Attack,
    public: Oracle,
    clean: Oracle | None,
    images: Tensor,
    labels: Tensor | None,
    trainer: Trainer,
) -> tuple[nn.Module, Metered]:
    door = Metered(public)
    known = None if clean is None else clean.query(images[: round(PAIRS * len(images))])
    return attack.steal(Attacker(door, images, labels, known, trainer)), door


def _thieves(doors: Doors, holdings: Holdings) -> Iterator[Arm]:
    own = holdings.own
    for name, oracle in doors.thieves.items():
        yield Arm(THIEF, f"{name}, α = 1", UNLABELLED, 1.0, partial(_one_label, oracle, own, alpha=1.0))
    for name, start in doors.networks.items():
        for count in FINE_TUNED_ON:
            few = own.subset(torch.arange(min(count, len(own))))
            learn = partial(_fine_tune, start, few, doors)
            yield Arm(THIEF, f"{name}, fine-tuned on {count} labels", LABELLED, 1.0, learn)


def _fine_tune(
    start: Callable[[], nn.Module], few: LabelledImages, doors: Doors, trainer: Trainer
) -> tuple[nn.Module, Metered]:
    """A network that is there already, gone on with on a few labels: the same short recipe whatever the start."""
    recipe = replace(trainer.recipe, epochs=FINE_TUNING_EPOCHS, learning_rate=0.01, batch_size=32)
    nothing = torch.zeros(len(few), len(few.classes))
    tuner = replace(trainer, recipe=recipe, new=start)
    return tuner.distil(few.images, few.labels, nothing, temperature=1, alpha=0), Metered(doors.public)
