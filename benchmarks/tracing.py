"""How well a leaked key is found again: students of marked answers, evasions, and what an honest partner pays.

Each student learns from the shipped model's answers with the mark of one of `--issued` keys, and is asked about test
images; the owner tests all issued keys, with references that learned from unmarked answers and without. Rows lie in
results/tracing.json as soon as they are there; the same command goes on where it stopped, and draws
docs/figures/tracing.svg and the table of docs/tracing.md.
"""

import argparse
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric

from benchmarks.plots import DOCS
from benchmarks.rows import Kept, show, with_table
from benchmarks.shipped import shipped
from benchmarks.tracing_figure import draw
from models.attacks.attacker import Trainer
from models.attacks.oracle import TierOracle
from models.attacks.tracing.leak import Leak
from models.attacks.tracing.suite import EVASIONS, Evasion
from models.backbones import Classifier, build
from models.bundles import InputSpec
from models.data import LabelledImages, Pixels, load, pixels_of
from models.evaluation.answers_file import Answers
from models.tracing.detection import trace
from models.tracing.mark import Mark
from models.tracing.waves import Floats
from models.training.loop import Recipe

PAGE = DOCS / "tracing.md"
OWNER = bytes(range(32))  # the secret of an owner who has nothing to hide
QUERIES = (250, 500, 1000, 2000, 5000, 10000)
ASKED = 5000
NAMED = 1e-6  # corrected
FIRST_REFERENCE = 1000  # its seed: that of no suspect
PANEL = "T = 1, α = 0.5;10 % of the labels;half true labels"  # students unlike each other, whatever they are taught


@dataclass(frozen=True)
class Job:
    """One student: of which architecture, of which evasion, how strongly marked, from which seed."""

    student: str
    evasion: Evasion
    strength: float
    seed: int


@dataclass(frozen=True)
class Bench:
    """The images with the shipped model's unmarked logits, and how students are trained."""

    own: LabelledImages
    told: torch.Tensor
    test: LabelledImages
    clean: Floats
    marks: dict[str, Mark]
    input: InputSpec
    trainer: Trainer
    work: Path
    setting: dict[str, Any]
    _leaks: dict[tuple[object, ...], Leak] = field(default_factory=dict)

    @property
    def pixels(self) -> Pixels:
        """The test images as the model is shown them."""
        return pixels_of(self.test.images)

    def soft(self, key: str, strength: float) -> torch.Tensor:
        """What the model tells this key of the students' images."""
        if not strength:
            return self.told
        return torch.from_numpy(self.marks[key].apply(pixels_of(self.own.images), self.told.numpy(), strength))

    def answers(self, job: Job) -> Floats:
        """The suspect's probabilities on the test images; trained once, remembered in a file."""
        name = f"{job.student}-{job.evasion.name}-{job.strength:g}-{job.seed}".replace(" ", "_").replace("/", "_")
        path = self.work / f"{name}.npy"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, job.evasion.evade(self._leak(job))(self.test.images).numpy())
        found: Floats = np.load(path)
        return found

    def _leak(self, job: Job) -> Leak:
        """What the traitor of `job` holds; evasions of the same answers share it, and what was trained of it."""
        keys = tuple(keys_of(job))
        held = job.student, job.strength, job.seed, keys
        if held not in self._leaks:
            self._leaks[held] = Leak(
                self.own.images,
                self.own.labels,
                tuple(self.soft(key, job.strength) for key in keys),
                replace(
                    self.trainer,
                    new=lambda: Classifier(build(job.student, len(self.own.classes)), self.input.mean, self.input.std),
                    recipe=replace(self.trainer.recipe, seed=job.seed),
                    title=f"{job.student}, strength {job.strength:g}, seed {job.seed}",
                ),
            )
        return self._leaks[held]


def keys_of(job: Job) -> list[str]:
    """Whose answers the suspect has learned from."""
    return [f"key-{job.seed + number}" for number in range(job.evasion.keys)]


def main() -> None:
    """Train, ask, test and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="image folder, or PATH of PATH_train.parquet")
    parser.add_argument("--images", type=int, default=45000, help="that the students learn from")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--students", default="slim_cnn", help="architectures; references are of the first")
    parser.add_argument("--strengths", default="0,0.5,1")
    parser.add_argument("--evasion-strength", type=float, default=1.0, help="with which evasions are tried")
    parser.add_argument("--evasions", default="*", help="names, separated by semicolons; * for all")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--references", type=int, default=3, help="unmarked students as partners make them")
    parser.add_argument("--panel", default=PANEL, help="evasions, separated by semicolons: an unmarked student of each")
    parser.add_argument("--issued", type=int, default=1000)
    parser.add_argument("--work", type=Path, default=Path("runs/tracing"), help="where students' answers are kept")
    asked = parser.parse_args()
    kept, bench = Kept("tracing"), _bench(asked)
    references = [bench.answers(job) for job in _references(asked)]
    for job in _jobs(asked):
        named = {
            **bench.setting,
            "student": job.student,
            "evasion": job.evasion.name,
            "strength": job.strength,
            "seed": job.seed,
        }
        if not kept.has(named):
            kept.add({**named, **_row(bench, job, references)})
    shown = {**bench.setting, "student": asked.students.split(",")[0]}
    rows = [row for row in kept.rows if shown.items() <= row.items()]
    draw(rows, DOCS / "figures" / "tracing.svg", asked=ASKED)
    found = list(_summary(rows))
    show("how well a leaked key is found again", found)
    PAGE.write_text(with_table(PAGE.read_text(), "students", [list(one.values()) for one in found]))


def _bench(asked: argparse.Namespace) -> Bench:
    predictor = shipped()
    oracle = TierOracle(predictor, keyed=True)
    rest, _ = load(asked.data, "train", 32, 32).split(None, seed=0)  # as `sdb wrap` holds out: not learned
    own = rest.subset(torch.arange(asked.images))
    everything = load(asked.data, "test", 32, 32)
    order = torch.randperm(len(everything), generator=torch.Generator().manual_seed(0))
    test = everything.subset(order)  # the files are sorted by class

    def told(name: str, images: torch.Tensor) -> torch.Tensor:
        path = asked.work / f"{asked.data.name}-{name}-{len(images)}.pt"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.save(oracle.query(images), path)
        found: torch.Tensor = torch.load(path, weights_only=True)
        return found

    recipe = Recipe(asked.epochs, 0.1)
    trainer = Trainer(Fabric(accelerator="cpu", devices=1), torch.nn.Identity, recipe, "student")
    return Bench(
        own,
        told("own", own.images),
        test,
        told("test", test.images).numpy(),
        {f"key-{number}": Mark.derive(OWNER, f"key-{number}", len(own.classes)) for number in range(asked.issued)},
        predictor.manifest.input,
        trainer,
        asked.work / f"{asked.data.name}-{asked.images}-{asked.epochs}",
        {
            "data": asked.data.name,
            "images": asked.images,
            "epochs": asked.epochs,
            "references": asked.references,
            "panel": asked.panel,
        },
    )


def _references(asked: argparse.Namespace) -> Iterator[Job]:
    """Unmarked students of the first architecture: as partners make them, and one of each kind of the panel."""
    student, kinds = asked.students.split(",")[0], {evasion.name: evasion for evasion in EVASIONS}
    for number in range(asked.references):
        yield Job(student, EVASIONS[0], 0.0, FIRST_REFERENCE + number)
    for name in filter(None, asked.panel.split(";")):
        yield Job(student, kinds[name], 0.0, FIRST_REFERENCE)


def _jobs(asked: argparse.Namespace) -> Iterator[Job]:
    """Every strength without evasion for every student, then every evasion by the first one."""
    students = asked.students.split(",")
    chosen = [one for one in EVASIONS[1:] if asked.evasions == "*" or one.name in asked.evasions.split(";")]
    for seed in (int(seed) for seed in asked.seeds.split(",")):
        for student in students:
            for strength in (float(strength) for strength in asked.strengths.split(",")):
                yield Job(student, EVASIONS[0], strength, seed)
        for evasion in chosen:
            yield Job(students[0], evasion, asked.evasion_strength, seed)


def _row(bench: Bench, job: Job, references: list[Floats]) -> dict[str, Any]:
    started = time.monotonic()
    answers = bench.answers(job)
    guilty = set(keys_of(job)) if job.strength else set()
    pixels = bench.pixels

    def found(said: Answers, count: int, beside: list[Floats]) -> dict[str, Any]:
        return _found(bench, said[:count], pixels[:count], [one[:count] for one in beside], guilty)

    return {
        "top1": round(100 * float((answers.argmax(axis=1) == bench.test.labels.numpy()).mean()), 2),
        "power": {str(count): found(answers, count, references) for count in QUERIES if count <= len(answers)},
        "without_references": found(answers, ASKED, []),
        "by_top1_alone": found(answers.argmax(axis=1), ASKED, references),
        "seconds": round(time.monotonic() - started, 1),
    }


def _summary(rows: list[dict[str, Any]]) -> Iterator[dict[str, str]]:
    """One line for all students of one kind: of each of them, top-1 and the highest score of a key that it is of."""
    kinds: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for row in rows:
        kinds.setdefault((row["evasion"], row["strength"]), []).append(row)
    for (evasion, strength), alike in kinds.items():
        found = [row["power"][str(ASKED)] for row in alike]
        most = str(max(QUERIES))
        yield {
            "what is done": evasion if strength else "not marked",
            "strength": f"{strength:g}",
            "top-1, %": _each(row["top1"] for row in alike),
            f"score, {ASKED} queries": _each(max(one["scores"], default=None) for one in found),
            f"score, {most} queries": _each(max(row["power"][most]["scores"], default=None) for row in alike),
            "named": f"{sum(one['named'] > 0 for one in found)} of {len(found)}" if strength else "",
            "highest of an innocent key": f"{max(one['innocent_most'] for one in found):.1f}",
        }


def _each(figures: Iterable[float | None]) -> str:
    return ", ".join(f"{figure:.1f}" for figure in figures if figure is not None)


def _found(
    bench: Bench, answers: Answers, pixels: Pixels, references: list[Floats], guilty: set[str]
) -> dict[str, Any]:
    """The scores of the guilty keys, how many of them are named, and how many innocent ones are."""
    evidence = trace(answers, bench.clean[: len(answers)], pixels, bench.marks, references)
    innocent = [one for one in evidence if one.key_id not in guilty]
    return {
        "scores": [round(one.score, 2) for one in evidence if one.key_id in guilty],
        "named": sum(one.corrected < NAMED for one in evidence if one.key_id in guilty),
        "falsely_named": sum(one.corrected < NAMED for one in innocent),
        "innocent_most": round(innocent[0].score, 2),
        "innocent_deviation": round(float(np.std([one.score for one in innocent])), 3),
    }


if __name__ == "__main__":
    main()
