"""What calibrated confidence costs: levels of the public confidence against what a student harvests from them.

The student of the attack "flattening" keeps the public top-1 probability and nothing else of the vector; with one level
that is label smoothing, with more it learns how sure the model is, and without a limit on levels all of it. Every row
has the same images, students and seeds. Writes results/confidence.json and docs/figures/confidence.svg.
"""

import argparse
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from lightning_fabric import Fabric
from torch import Tensor, nn

from benchmarks.plots import DOCS, drawn
from benchmarks.rows import keep
from benchmarks.shipped import shipped
from models.attacks import flattening, hard_label
from models.attacks.attacker import Attacker, Trainer
from models.attacks.oracle import TierOracle
from models.backbones import Classifier, build
from models.evaluation.evaluate import read_images
from models.metrics import calibration_error, top1
from models.release import Release, calibrated_levels
from models.training.loop import Recipe

LEVELS = (1, 2, 4, 8, 16, None)  # None: the keyed vector's own confidence


class Told:
    """The answers to the attacker's images, all of them in their order, as one release stage sends them."""

    def __init__(self, answers: Tensor) -> None:
        self._answers = answers

    def query(self, images: Tensor) -> Tensor:
        """`Oracle.query`."""
        assert len(images) == len(self._answers)
        return self._answers


def main() -> None:
    """Train the students, write figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="PATH of PATH_train.parquet")
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    box = shipped()
    manifest, keyed = box.manifest, TierOracle(box, keyed=True)
    classes = len(manifest.classes)
    images = read_images(arguments.data, None, manifest.input, manifest.classes, arguments.images)
    own, validation, test = (keyed.query(part.images) for part in (images.own, images.validation, images.test))

    def released(levels: int | None, pictures: Tensor, logits: Tensor) -> Tensor:
        if levels is None:
            return logits
        confidences, edges = calibrated_levels(validation, images.validation.labels, levels)
        stage = Release(bytes(32), classes, confidences=confidences, edges=edges)
        stage.load_state_dict(box.box.release.state_dict())
        public: Tensor = stage(pictures.float() / 255, logits)
        return public

    def new() -> nn.Module:
        return Classifier(build("plain_cnn", classes), manifest.input.mean, manifest.input.std)

    rows: list[dict[str, Any]] = []
    for name, levels in (("hard labels", 1), *(("flattening", levels) for levels in LEVELS)):
        door = Told(released(levels, images.own.images, own))
        accuracies = []
        for seed in range(arguments.seeds):
            recipe = Recipe(arguments.epochs, 0.1, seed=seed)
            trainer = Trainer(
                Fabric(accelerator="cpu", devices=1), new, recipe, f"{name}, {levels} levels, seed {seed}"
            )
            attacker = Attacker(door, images.own.images, None, None, trainer)
            student = (hard_label if name == "hard labels" else flattening).steal(attacker)
            accuracies.append(round(100 * top1(trainer.predict(student, images.test.images), images.test.labels), 2))
        error = calibration_error(released(levels, images.test.images, test), images.test.labels)
        rows.append({"attack": name, "levels": levels, "calibration_error": round(error, 4), "test_top1": accuracies})
        print(rows[-1], flush=True)
    keep("confidence", {"rows": rows})
    _draw(rows[0], rows[1:])


def _draw(floor: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    names = ["all" if row["levels"] is None else str(row["levels"]) for row in rows]
    differences = [
        [own - theirs for own, theirs in zip(row["test_top1"], floor["test_top1"], strict=True)] for row in rows
    ]
    errors = [stdev(values) / len(values) ** 0.5 for values in differences]
    with drawn(DOCS / "figures" / "confidence.svg", 8, 2.8, ncols=2) as (learned, calibrated):
        learned.errorbar(names, [fmean(values) for values in differences], yerr=errors, color="#c8553d", marker="o")
        learned.axhline(0, color="#333333", lw=0.8, ls="--")
        learned.set_ylabel("student minus hard labels, points")
        calibrated.plot(names, [100 * row["calibration_error"] for row in rows], color="#2a7f62", marker="o")
        calibrated.set_ylabel("calibration error, %")
        calibrated.set_ylim(0)
        for axes in (learned, calibrated):
            axes.set_xlabel("levels of public confidence")


if __name__ == "__main__":
    main()
