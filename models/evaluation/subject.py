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
from models.attacks.stolen import Guess, asked, random_guess, recalibrated, renormalised, sought_guess
from models.backbones import Classifier
from models.bundles import InputSpec, LockSpec, Manifest
from models.data import LabelledImages
from models.evaluation import weights
from models.evaluation.arms import THIEF, Doors
from models.evaluation.locked import Locked, locked_bundle
from models.guard import SafeDistillationBox
from models.lock import PixelLock
from models.predictor import Predictor
from models.training.figures import averaged

GUESSES = 20  # keys that a thief tries before it believes one
SEARCH_IMAGES = 1000
SEARCH_STEPS = 300
FINE_TUNING = f"{THIEF}: *fine-tuned*"


@dataclass(frozen=True)
class Subject:
    """A model under attack; `left_out` says what cannot be asked of it, and why.

    `identity` is whatever decides its answers: results of another identity are not this one's. `averaged_teacher` is
    the bare teacher over as many passes as the tiers average: the like with which they are compared. `locked` is what a
    thief of a locked model meets; all doors of such a model are those of a caller who may unlock it. `default_arms` are
    the arms that suit it.
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
    locked: Locked | None = None
    default_arms: str = "*"


def in_process(
    predictor: Predictor, secret: bytes, teacher: Path | None, backbone: Path | None, own: LabelledImages
) -> Subject:
    """A bundle in this process, with the weights of its bare teacher and of a public backbone if they are given.

    The thieves search for the key with the images of `own` and the top-1 that the public door gives them. Keys of a
    lock are made of `secret`: the right one, to compare with, and those of others.

    Raises:
        BundleError: the weights do not fit the bundle's architecture, or a bundle without a box has a teacher.
    """
    manifest, device, box = predictor.manifest, predictor.device, predictor.box
    spec, classes = manifest.input, len(manifest.classes)
    if teacher is not None and "sdb" not in manifest.guards:
        raise bundles.BundleError(f"{manifest.name} is locked but has no box: there is no teacher to compare it with")

    def network(weights_file: Path, seen: InputSpec, *, new_head: bool) -> nn.Module:
        torch.manual_seed(0)  # a new head is drawn
        backbone = bundles.load_backbone(manifest.architecture, classes, weights_file, new_head=new_head)
        return Classifier(backbone, seen.mean, seen.std).eval().requires_grad_(False).to(device)

    def stolen(lock: LockSpec) -> Locked:
        return locked_bundle(manifest, lock, box, secret, base=base, base_identity=_file_identity(backbone))

    public = TierOracle(predictor, keyed=False)
    bare = None if teacher is None else _behind(box.lock, network(teacher, spec, new_head=False))
    base = None if backbone is None else network(backbone, _public_input(manifest), new_head=box.lock is not None)
    starts: dict[str, Callable[[], nn.Module]] = {"stolen weights": partial(_trainable, box.network)}
    if base is not None:
        starts["public backbone"] = partial(_trainable, base)
    doors = Doors(
        public=public,
        authorised=TierOracle(predictor, keyed=True),
        teacher=None if bare is None else NetworkOracle(bare, device),
        thieves=_thieves(box, public, own.images[:SEARCH_IMAGES], device) if box.lock is None else {},
        networks=starts,
        teacher_identity=_file_identity(teacher),
    )
    return Subject(
        manifest.name,
        manifest.version,
        manifest.architecture,
        manifest.classes,
        spec,
        "in this process" if box.lock is None else "in this process, by a caller who may unlock the model",
        {
            "weights": manifest.sha256[bundles.WEIGHTS],
            "guard": manifest.guard.model_dump(mode="json"),
            "release": hashlib.sha256(box.release.projection.cpu().numpy().tobytes()).hexdigest(),
            **({} if manifest.lock is None else {"lock": manifest.lock.model_dump(mode="json")}),
        },
        doors,
        None if bare is None else NetworkOracle(partial(averaged, bare, manifest.guard.passes), device),
        None if bare is None or box.lock is not None else partial(weights.measure, box, bare, device=device),
        _left_out(manifest, teacher, backbone),
        None if manifest.lock is None else stolen(manifest.lock),
        "*" if "sdb" in manifest.guards else FINE_TUNING,
    )


def _left_out(manifest: Manifest, teacher: Path | None, backbone: Path | None) -> list[str]:
    boxed, locked = "sdb" in manifest.guards, manifest.lock is not None
    found = {
        "the bare teacher, and how far stolen weights are from it: no --teacher": boxed and teacher is None,
        "fine-tuning a public backbone: no --backbone": backbone is None,
        "what stolen weights say with a guessed κ: without the lock's key they say nothing of use": boxed and locked,
    }
    return [reason for reason, holds in found.items() if holds]


def _public_input(manifest: Manifest) -> InputSpec:
    """How a public backbone is normalised: as the bundle, but for a locked one, whose own numbers suit its lock.

    Then it is as the network was that a lock with a stem began from, else as most weights are that are public.
    """
    spec = manifest.input
    if manifest.lock is None:
        return spec
    return manifest.plain_input or InputSpec(height=spec.height, width=spec.width)


def _behind(lock: PixelLock | None, network: nn.Module) -> nn.Module:
    """A network that was fitted to what a lock makes of images, asked with plain ones."""
    return network if lock is None else nn.Sequential(lock, network)


def _file_identity(path: Path | None) -> str:
    return "" if path is None else hashlib.sha256(path.read_bytes()).hexdigest()


def _trainable(network: nn.Module) -> nn.Module:
    """A copy that a thief may train on."""
    return copy.deepcopy(network).requires_grad_(True)


def _thieves(box: SafeDistillationBox, public: Oracle, images: Tensor, device: torch.device) -> dict[str, Oracle]:
    """The ways to ask stolen weights; a key is searched for when the first answer is wanted."""
    network = box.network

    def with_key(guess: Guess) -> Oracle:
        return NetworkOracle(partial(averaged, asked(network, guess), box.passes), device)

    def sharpened() -> Oracle:
        return NetworkOracle(partial(averaged, recalibrated(network, images), box.passes), device)

    def refitted() -> Oracle:
        found = renormalised(network, images, public.query(images).argmax(1), steps=SEARCH_STEPS, seed=0)
        return NetworkOracle(partial(averaged, found, box.passes), device)

    def guessed() -> Oracle:
        """Of many random keys, the one under which the network is surest of itself."""
        doors = [with_key(random_guess(box.shape, box.lam, seed)) for seed in range(1, GUESSES + 1)]
        return max(doors, key=lambda door: door.query(images).softmax(1).amax(1).mean().item())

    def sought() -> Oracle:
        top1 = public.query(images).argmax(1)
        return with_key(sought_guess(network, images, top1, lam=box.lam, steps=SEARCH_STEPS, seed=0))

    return {
        "stolen weights, no key": NetworkOracle(partial(averaged, box.without_key, box.passes), device),
        "stolen weights, no key, recalibrated": _Sought(sharpened),
        "stolen weights, sought normalisation": _Sought(refitted),
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
