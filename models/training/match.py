"""From a plain vision transformer to a locked bundle without training: match the weights to the key, test, write.

Knows the order of the work; `models.matched` changes the weights. Training images only calibrate the release stage.
"""

from dataclasses import replace
from pathlib import Path

from lightning_fabric import Fabric

from models import bundles
from models.backbones import Classifier
from models.bundles import Manifest
from models.data import load
from models.matched import matched
from models.metrics import agreement, top1
from models.training.figures import lock_figures, random_locks
from models.training.lock import Plan
from models.training.loop import predict
from models.training.preparation import CALIBRATION_IMAGES, finish, read_training


def match(plan: Plan, secret: bytes, out: Path, fabric: Fabric) -> Manifest:
    """Match the network of `plan` to the key, compare it with the plain one, and write its bundle to `out`.

    `plan.input` is that of the plain model; what `plan` says of training is not looked at, its seed aside.

    Raises:
        DataError, BundleError, MatchError: each says what to do.
    """
    device, plain_input = fabric.device, plan.input
    spec = plain_input.model_copy(update={"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)})
    key = bundles.pixel_lock(plan.lock, secret, plan.name, (3, spec.height, spec.width))
    training, _ = read_training(plan.data, spec, held_out=1, seed=plan.recipe.seed, share=plan.subset)
    backbone = bundles.load_backbone(plan.architecture, len(training.classes), plan.weights)
    weights = {"weights_sha256": plan.facts()["weights_sha256"]}
    manifest = replace(plan, input=spec).manifest(training.classes, device, weights)
    box = bundles.assemble(manifest, secret)
    box.network = Classifier(matched(backbone, key.transform, plain_input.mean, plain_input.std), spec.mean, spec.std)
    box.release.calibrate(training.images[:CALIBRATION_IMAGES])
    box.to(device).eval()
    key.to(device)
    test = load(plan.data, "test", spec.height, spec.width)
    plain = Classifier(backbone, plain_input.mean, plain_input.std).to(device).eval()
    bare = predict(plain, test.images, device)
    own = predict(lambda images: box.without_key(key(images)), test.images, device)
    measured = lock_figures(box.without_key, key, random_locks(key, plan.wrong_keys), test, device)
    measured |= {"top1_plain": top1(bare, test.labels), "agreement_right_key_plain": agreement(own, bare)}
    unrounded = {"test_max_logit_difference": (own - bare).abs().max().item()}
    return finish(manifest.model_copy(update={"metrics": unrounded}), measured, box, out, fabric, secret=secret)
