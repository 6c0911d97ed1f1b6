"""The model under attack: what the attacker's side must know of it, and the doors at which it may be asked.

Knows bundles and bare weights; a live server makes its own `Subject` (app/remote.py).
"""

import copy
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from models import bundles
from models.attacks.oracle import NetworkOracle, Oracle, TierOracle
from models.attacks.stolen import Guess, asked, random_guess, sought_guess
from models.backbones import Classifier
from models.bundles import InputSpec
from models.data import LabelledImages
from models.evaluation import weights
from models.evaluation.arms import Doors
from models.guard import SafeDistillationBox
from models.predictor import Predictor
from models.training.figures import averaged

GUESSES = 20  # keys that a thief tries before it believes one
SEARCH_IMAGES = 1000
SEARCH_STEPS = 300


@dataclass(frozen=True)
class Subject:
    """A model under attack; `left_out` says what cannot be asked of it, and why.

    `identity` is whatever decides its answers: results of another identity are not this one's. `averaged_teacher` is
    the bare teacher over as many passes as the tiers average: the like with which they are compared.
    """

    name: str
    version: str
    architecture: str
    classes: tuple[str, ...]
    input: InputSpec
    door: str
    identity: dict[str, object]
    doors: Doors
    averaged_teacher: Oracle | None = None
    read_weights: Callable[[LabelledImages, LabelledImages], weights.Weights] | None = None
    left_out: list[str] = field(default_factory=list)


def in_process(predictor: Predictor, teacher: Path | None, backbone: Path | None, own: LabelledImages) -> Subject:
    """A bundle in this process, with the weights of its bare teacher and of a public backbone if they are given.

    The thieves search for the key with the images of `own` and the top-1 that the public door gives them.

    Raises:
        BundleError: the weights do not fit the bundle's architecture.
    """
    manifest, device = predictor.manifest, predictor.device
    spec, classes = manifest.input, len(manifest.classes)

    def network(weights_file: Path) -> nn.Module:
        backbone = bundles.load_backbone(manifest.architecture, classes, weights_file)
        return Classifier(backbone, spec.mean, spec.std).eval().to(device)

    public = TierOracle(predictor, keyed=False)
    bare = None if teacher is None else network(teacher)
    starts: dict[str, Callable[[], nn.Module]] = {"stolen weights": partial(_unlocked, predictor.box)}
    if backbone is not None:
        starts["public backbone"] = partial(copy.deepcopy, network(backbone))
    doors = Doors(
        public=public,
        authorised=TierOracle(predictor, keyed=True),
        teacher=None if bare is None else NetworkOracle(bare, device),
        thieves=_thieves(predictor.box, public, own.images[:SEARCH_IMAGES], device),
        networks=starts,
        teacher_identity="" if teacher is None else hashlib.sha256(teacher.read_bytes()).hexdigest(),
    )
    return Subject(
        manifest.name,
        manifest.version,
        manifest.architecture,
        manifest.classes,
        spec,
        "in this process",
        {
            "weights": manifest.sha256[bundles.WEIGHTS],
            "guard": manifest.guard.model_dump(mode="json"),
            "release": hashlib.sha256(predictor.box.release.projection.cpu().numpy().tobytes()).hexdigest(),
        },
        doors,
        None if bare is None else NetworkOracle(partial(averaged, bare, manifest.guard.passes), device),
        None if bare is None else partial(weights.measure, predictor.box, bare, device=device),
        [
            *(["the bare teacher, and how far stolen weights are from it: no --teacher"] if teacher is None else []),
            *(["fine-tuning a public backbone: no --backbone"] if backbone is None else []),
        ],
    )


def _unlocked(box: SafeDistillationBox) -> nn.Module:
    """A copy of the network that a thief may train on."""
    return copy.deepcopy(box.network).requires_grad_(True)


def _thieves(box: SafeDistillationBox, public: Oracle, images: Tensor, device: torch.device) -> dict[str, Oracle]:
    """The ways to ask stolen weights; a key is searched for when the first answer is wanted."""
    network, shape = box.network, (box.key.shape[0], box.key.shape[1], box.key.shape[2])

    def with_key(guess: Guess) -> Oracle:
        return NetworkOracle(partial(averaged, asked(network, guess), box.passes), device)

    def guessed() -> Oracle:
        """Of many random keys, the one under which the network is surest of itself."""
        doors = [with_key(random_guess(shape, box.lam, seed)) for seed in range(1, GUESSES + 1)]
        return max(doors, key=lambda door: door.query(images).softmax(1).amax(1).mean().item())

    def sought() -> Oracle:
        top1 = public.query(images).argmax(1)
        return with_key(sought_guess(network, images, top1, lam=box.lam, steps=SEARCH_STEPS, seed=0))

    return {
        "stolen weights, no key": NetworkOracle(partial(averaged, box.without_key, box.passes), device),
        "stolen weights, best of 20 guessed keys": _Sought(guessed),
        "stolen weights, inverted trigger": _Sought(sought),
    }


class _Sought:
    """A door that has to be found before it can be asked: when the first answer is wanted, and once."""

    def __init__(self, find: Callable[[], Oracle]) -> None:
        self._find = find
        self._found: Oracle | None = None

    def query(self, images: Tensor) -> Tensor:
        """`Oracle.query`."""
        self._found = self._found or self._find()
        return self._found.query(images)
