"""Rows to figures: means and standard errors over seeds, and what the protection promises against what was measured.

Knows arithmetic and the promises; draws nothing.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean, stdev

from models.attacks.suite import ATTACKS
from models.evaluation.arms import ATTACK, FINE_TUNED_ON, KEY_HOLDER, LABELLED, REFERENCE, THIEF, UNLABELLED
from models.evaluation.study import Row
from models.evaluation.tiers import Tier
from models.evaluation.weights import Weights

READS_VECTOR = frozenset(attack.name for attack in ATTACKS if attack.reads_vector)
FLOOR, VOTES = "hard labels", "augmentations, votes"
MANY_CLASSES = 100  # from here on a naive student is to fall by 25 points, below by 15


@dataclass(frozen=True)
class Figure:
    """One arm's mean over seeds, in percent, with its standard error (None for one seed)."""

    group: str
    name: str
    holdings: str
    share: float
    student: str
    seeds: int
    test_top1: float
    standard_error: float | None
    validation_top1: float
    queries: int
    seconds: float


@dataclass(frozen=True)
class Verdict:
    """A promise, what was measured for it in percentage points (or a ratio), and whether it was kept."""

    student: str
    promise: str
    target: str
    measured: float
    standard_error: float | None
    detail: str
    kept: bool


def figures(rows: Iterable[Row]) -> list[Figure]:
    """One figure per arm and student, in the order of the rows."""
    groups: dict[tuple[str, str, str, float, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.group, row.name, row.holdings, row.share, row.student), []).append(row)
    return [
        Figure(
            *arm,
            seeds=len(members),
            test_top1=100 * fmean(row.test_top1 for row in members),
            standard_error=_standard_error([100 * row.test_top1 for row in members]),
            validation_top1=100 * fmean(row.validation_top1 for row in members),
            queries=members[0].queries,
            seconds=fmean(row.seconds for row in members),
        )
        for arm, members in groups.items()
    ]


def verdicts(rows: Sequence[Row], tiers: Sequence[Tier], weights: Weights | None, classes: int) -> list[Verdict]:
    """Every promise that the rows, tiers and weights of a model of so many classes can judge."""
    found = _about_tiers({tier.name: tier for tier in tiers})
    naive_fall = 15 if classes < MANY_CLASSES else 25
    for student in dict.fromkeys(row.student for row in rows):
        own = [row for row in rows if row.student == student and row.share == 1.0]
        found += _about_students(student, own, naive_fall)
    return found + ([] if weights is None else _about_weights(weights))


def _about_tiers(tiers: dict[str, Tier]) -> list[Verdict]:
    return [
        Verdict(
            "–",
            f"top-1 of the {name} answers minus that of the {teacher}",
            target,
            round(gain, 2),
            error,
            f"{100 * tiers[name].top1:.2f} against {100 * tiers[teacher].top1:.2f} %",
            gain >= least,
        )
        for name, target, least in (("public", "≥ 0.0", 0.0), ("authorised", "≥ −0.3", -0.3))
        if name in tiers
        for teacher, (gain, error) in tiers[name].gains.items()
        if teacher.startswith("teacher")
    ]


def _about_students(student: str, rows: list[Row], naive_fall: int) -> list[Verdict]:
    attacks = [row for row in rows if row.group == ATTACK]
    blind = [row for row in attacks if row.holdings == UNLABELLED]
    floor = [row for row in blind if row.name == FLOOR]
    alone = [row for row in rows if row.group == REFERENCE and row.name.startswith("alone")]
    holders = [row for row in rows if row.group == KEY_HOLDER]
    bare = [row for row in rows if row.group == REFERENCE and row.name.startswith("bare teacher, one label")]
    asked = max((row.queries for row in floor), default=0)
    once = [row for row in blind if row.queries <= asked]
    top1_only = [row for row in once if row.name not in READS_VECTOR]
    more = [row for row in blind if row.queries > asked]
    found: list[Verdict | None] = []
    for holdings, alpha in ((LABELLED, "0.9"), (UNLABELLED, "1")):
        naive = [row for row in attacks if row.name == f"soft labels, T = 4, α = {alpha}" and row.holdings == holdings]
        promise = f"naive student of the public answers (T = 4, α = {alpha}) minus hard labels"
        kept = partial(_at_most, -naive_fall)
        found.append(_verdict(student, promise, f"≤ −{naive_fall}", naive, [floor], kept=kept))
    chance = "≤ 0.5, within 1 s.e. of 0"
    readers = [row for row in once if row.name in READS_VECTOR]
    promise = "best attack that reads the vector, without labels, minus "
    found += [
        _verdict(student, promise + "hard labels", chance, readers, [floor], kept=_nothing),
        _verdict(
            student, promise + "the best that reads the top-1 only", chance, readers, _arms(top1_only), kept=_nothing
        ),
        _verdict(
            student,
            "best attack that asks about several views of each image, minus votes over as many top-1s",
            chance,
            [row for row in more if row.name in READS_VECTOR],
            [[row for row in more if row.name == VOTES]],
            kept=_nothing,
        ),
        _verdict(
            student,
            "best attack of all without labels, top-1s of several views included, minus hard labels",
            chance,
            blind,
            [floor],
            kept=_nothing,
        ),
    ]
    if alone and floor:
        labelled = [row for row in attacks if row.holdings == LABELLED and row.queries <= asked]
        promise = "best attack with labels minus alone, label smoothing and hard labels"
        found.append(_verdict(student, promise, chance, labelled, [*_arms(alone), floor], kept=_nothing))
    for alpha in ("0.9", "1"):
        own = [row for row in holders if row.name == f"key, one label, α = {alpha}"]
        theirs = [row for row in bare if row.name.endswith(f"α = {alpha}")]
        promise = f"key holder minus student of the bare teacher (one label, α = {alpha})"
        found.append(_verdict(student, promise, "≥ 0", own, [theirs], kept=partial(_at_least, 0.0)))
    views = [row for row in holders if row.name.endswith("views")]
    single = [row for row in bare if row.name.endswith("α = 0.9")]
    promise = "key holder with the best number of views minus the bare teacher's one label"
    found.append(_verdict(student, promise, "≥ +0.5", views, [single], kept=partial(_at_least, 0.5)))
    thieves = [row for row in rows if row.group == THIEF and row.holdings == UNLABELLED]
    found.append(
        _verdict(
            student,
            "best student of stolen weights minus hard labels",
            "aim ≤ 0",
            thieves,
            [floor],
            kept=partial(_at_most, 0.0),
        )
    )
    for count in FINE_TUNED_ON:
        tuned = [row for row in rows if row.group == THIEF and row.name.endswith(f"fine-tuned on {count} labels")]
        stolen = [row for row in tuned if row.name.startswith("stolen")]
        public = [row for row in tuned if not row.name.startswith("stolen")]
        promise = f"stolen weights minus a public backbone, fine-tuned on {count} labels"
        found.append(_verdict(student, promise, "aim ≤ 0", stolen, _arms(public), kept=partial(_at_most, 0.0)))
    return [verdict for verdict in found if verdict is not None]


def _about_weights(weights: Weights) -> list[Verdict]:
    lost = 100 * (weights.without.top1 - weights.teacher_top1)
    best = min(reading.kl_softened for reading in weights.wrong)
    ratio = best / weights.right_of_part.kl_softened
    return [
        Verdict(
            "–",
            "top-1 of stolen weights without key minus the teacher's",
            "≥ −1.5",
            round(lost, 2),
            None,
            f"{100 * weights.without.top1:.2f} %",
            lost >= -1.5,
        ),
        Verdict(
            "–",
            f"KL to the teacher, best of {len(weights.wrong)} wrong keys over the right key",
            "≥ 5 ×",
            round(ratio, 2),
            None,
            f"{best:.3f} against {weights.right_of_part.kl_softened:.3f} nats at T = 4",
            ratio >= 5,
        ),
    ]


def _at_least(least: float, value: float, _: float | None) -> bool:
    return value >= least


def _at_most(most: float, value: float, _: float | None) -> bool:
    return value <= most


def _nothing(value: float, error: float | None) -> bool:
    """No more than half a point, and no more than chance."""
    return value <= 0.5 and value <= (error or 0.0)


def _verdict(
    student: str,
    promise: str,
    target: str,
    rows: list[Row],
    against: Sequence[list[Row]],
    *,
    kept: Callable[[float, float | None], bool],
) -> Verdict | None:
    """The best arm of `rows` minus the best arm of `against`, seed by seed.

    Both bests are chosen on the validation images, as who cannot see the test set must, so that the best of many equal
    arms is not the luckiest; what the luckiest would have had is in the detail.
    """
    ours, theirs = _best(_arms(rows)), _best([arm for arm in against if arm])
    if not ours or not theirs:
        return None
    reference = {row.seed: row.test_top1 for row in theirs}
    differences = [100 * (row.test_top1 - reference[row.seed]) for row in ours if row.seed in reference]
    if not differences:
        return None
    value, error = fmean(differences), _standard_error(differences)
    luckiest = max(_arms(rows), key=_test)
    detail = f"{ours[0].name}: {100 * _test(ours):.1f} against {theirs[0].name}: {100 * _test(theirs):.1f} %"
    if luckiest[0].name != ours[0].name:
        detail += f"; highest on the test set: {luckiest[0].name}, {100 * _test(luckiest):.1f} %"
    return Verdict(student, promise, target, round(value, 2), error, detail, kept(value, error))


def _arms(rows: list[Row]) -> list[list[Row]]:
    """The rows, arm by arm."""
    arms: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        arms.setdefault((row.group, row.name, row.holdings), []).append(row)
    return list(arms.values())


def _best(arms: Sequence[list[Row]]) -> list[Row]:
    return max(arms, key=lambda arm: fmean(row.validation_top1 for row in arm), default=[])


def _test(arm: list[Row]) -> float:
    return fmean(row.test_top1 for row in arm)


def _standard_error(values: Sequence[float]) -> float | None:
    return stdev(values) / len(values) ** 0.5 if len(values) > 1 else None
