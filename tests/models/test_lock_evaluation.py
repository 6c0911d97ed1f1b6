"""Laws of the evaluation of a locked bundle: the right key is right, what opens it is told, nothing is made twice."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from models import bundles
from models.attacks.locks.thief import Budget
from models.backbones import Classifier, build
from models.bundles import BundleError, GuardSpec, InputSpec, LockSpec, Manifest
from models.data import LabelledImages
from models.evaluation.evaluate import Images, evaluate
from models.evaluation.lock_summary import LockReport, lock_figures, lock_report, lock_verdicts
from models.evaluation.lock_trials import ATTACK, NEAR, REFERENCE, WRONG, Effort
from models.evaluation.locked import Locked
from models.evaluation.locks import LockRow, Reading, measure, thief_of
from models.evaluation.report import render
from models.evaluation.subject import Subject, in_process
from models.key_stream import fingerprint
from models.predictor import Predictor
from models.training.lock import plain_step
from models.training.loop import Batch, Interrupted, Recipe, train
from models.views import random_views
from tests.conftest import SECRET
from tests.models.test_lock_attacks import COLOURS, SIDE, colours
from tests.models.test_training import CPU, FABRIC

LITTLE = Effort(wrong_keys=4, images=100, budget=Budget(keys=4, sweeps=1, steps=2, batch=20))
ENOUGH = replace(LITTLE, budget=Budget(keys=40, sweeps=2, steps=10, batch=100))
PUBLIC = ("public layers", "public layers with an adapter, 1000 images")
OWN, TEST = colours(200, seed=2), colours(300, seed=1)


def manifest(kind: str = "lock") -> Manifest:
    guard = {"lock": {"kind": "lock", "lam": 1}, "sdb": {"kind": "sdb", "lam": 0.9}}[kind]
    return Manifest(
        name="colours",
        architecture="plain_cnn",
        classes=OWN.classes,
        input=InputSpec(height=SIDE, width=SIDE, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        guard=GuardSpec.model_validate({**guard, "passes": 1, "secret_fingerprint": fingerprint(SECRET)}),
        lock=LockSpec(steps=("np",), block=2),
        metrics={"test_top1_plain": 0.99},
    )


def bundle(folder: Path, spec: Manifest, *, trained: bool) -> Predictor:
    torch.manual_seed(0)
    box = bundles.assemble(spec, SECRET)
    box.release.calibrate(colours(512).images)
    lock = box.lock or nn.Identity()

    def step(network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"ce": F.cross_entropy(network(lock(random_views(batch.images, batch.generator))), batch.labels)}

    if trained:
        train(FABRIC, box.network, colours(512), step, Recipe(4, 0.1, batch_size=32), title="lock")
    bundles.save(folder, spec, box.state_dict(), SECRET)
    return Predictor(folder, SECRET, CPU)


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    """A network that learned colours under a mask: the lock-only bundle of all these tests."""
    return bundle(tmp_path_factory.mktemp("zoo") / "colours", manifest(), trained=True)


def subject(predictor: Predictor) -> Subject:
    return in_process(predictor, SECRET, None, None, OWN)


def locked(predictor: Predictor) -> Locked:
    found = subject(predictor).locked
    assert found is not None
    return found


def measured(known: Locked, folder: Path, effort: Effort = LITTLE, seeds: tuple[int, ...] = (0,)) -> list[LockRow]:
    thieves = [thief_of(known, OWN, effort.budget, seed) for seed in seeds]
    return measure(known, thieves, {"model": "m"}, folder, test=TEST, effort=effort, told=lambda *_: None)


@pytest.mark.slow
def test_a_locked_bundle_is_attacked_judged_and_reported(predictor: Predictor, tmp_path: Path) -> None:
    images, told = Images("colours", OWN, colours(100, seed=3), TEST, None), list[str]()

    def run() -> dict[str, object]:
        return evaluate(
            subject(predictor),
            images,
            FABRIC,
            tmp_path,
            students=["plain_cnn"],
            epochs=1,
            seeds=[0],
            chosen="thief: *100 labels",
            command="sdb evaluate",
            told=lambda row, *_: told.append(row.name),
            effort=ENOUGH,
            told_of_lock=lambda row, *_: told.append(row.name),
        )

    document = run()
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "rows").iterdir()}
    verdicts = {verdict["promise"]: verdict for verdict in document["verdicts"]}  # type: ignore[attr-defined]
    assert verdicts["lock: top-1 with the right key minus the plain model's"]["kept"]
    climbed = verdicts["lock: hill climbing on the loss minus chance"]
    assert not climbed["kept"]
    assert climbed["measured"] > 50
    assert "of np" in climbed["detail"]
    assert "lock: worst of 4 random keys minus chance" in verdicts
    assert document["setting"]["arms"] == "thief: *100 labels"  # type: ignore[index]
    for attack in ("weight matching", *PUBLIC):
        assert f"{attack} on the lock: no --backbone" in document["left_out"]  # type: ignore[operator]
    page = (tmp_path / "report.html").read_text()
    assert "What the lock keeps out" in page
    assert "soft key, 128 images" in page
    assert {"the right key", "no key", "np, 2 entries wrong", "stolen weights, fine-tuned on 100 labels"} <= set(told)
    run()
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "rows").iterdir()} == kept, "no row is made twice"


def test_keys_are_read_as_right_as_they_are(predictor: Predictor, tmp_path: Path) -> None:
    rows = measured(locked(predictor), tmp_path)
    (right,) = (row for row in rows if row.kind == REFERENCE)
    assert right.readings[0].top1 > 0.95
    assert right.readings[0].recovered == {"np": 1.0}
    nothing = next(row for row in rows if row.name == "no key")
    assert (len(nothing.readings), nothing.readings[0].recovered) == (1, None)
    near = [row for row in rows if row.kind == NEAR]
    assert [row.wrong for row in near] == [2, 4, 8, 12]
    for row in near:
        assert row.readings[0].recovered == pytest.approx({"np": 1 - row.wrong / 12})
    assert near[0].readings[0].top1 > near[-1].readings[0].top1
    assert len(next(row for row in rows if row.name == "random keys").readings) == 4


def test_a_trial_is_made_for_every_seed_unless_it_draws_nothing(predictor: Predictor, tmp_path: Path) -> None:
    rows = measured(locked(predictor), tmp_path, LITTLE, seeds=(0, 1))
    seeds = {row.name: [one.seed for one in rows if one.name == row.name] for row in rows}
    assert seeds["no key"] == seeds["keys of other clients and models"] == [0]
    assert seeds["random keys"] == seeds["random search"] == [0, 1]
    random = [row.readings for row in rows if row.name == "random keys"]
    assert random[0] != random[1]


def test_rows_are_made_anew_where_their_own_effort_changes(predictor: Predictor, tmp_path: Path) -> None:
    first = measured(locked(predictor), tmp_path)
    assert measured(locked(predictor), tmp_path) == first
    before = set(tmp_path.iterdir())
    measured(locked(predictor), tmp_path, replace(LITTLE, wrong_keys=5))
    assert len(set(tmp_path.iterdir()) - before) == 2, "random keys, and those of others"
    measured(locked(predictor), tmp_path, replace(LITTLE, budget=replace(LITTLE.budget, keys=5)))
    attacks = sum(row.kind == ATTACK for row in first)
    assert len(set(tmp_path.iterdir()) - before) == 2 + attacks


class Stopped(nn.Module):
    """A network during whose `number`th pass Ctrl-C is pressed."""

    def __init__(self, network: nn.Module, number: int) -> None:
        super().__init__()
        self.network, self._left = network, number

    def forward(self, images: Tensor) -> Tensor:
        self._left -= 1
        if self._left == 0:
            raise KeyboardInterrupt
        logits: Tensor = self.network(images)
        return logits


def test_ctrl_c_keeps_what_is_finished(predictor: Predictor, tmp_path: Path) -> None:
    known = locked(predictor)
    with pytest.raises(Interrupted, match="random keys stopped"):
        measured(replace(known, network=Stopped(known.network, 6)), tmp_path)
    finished = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(finished) == 2, "the right key and no key"
    measured(known, tmp_path)
    assert finished.items() <= {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}.items()


@pytest.fixture(scope="module")
def locked_from_public(tmp_path_factory: pytest.TempPathFactory) -> Locked:
    """A bundle that has a first layer of its own, and the rest of a public network that knows colours as they are."""
    folder, spec = tmp_path_factory.mktemp("public"), manifest()
    torch.manual_seed(0)
    plain = InputSpec(height=SIDE, width=SIDE)
    public = Classifier(build("plain_cnn", len(COLOURS)), plain.mean, plain.std)
    train(FABRIC, public, colours(512), plain_step, Recipe(3, 0.1, batch_size=32), title="public")
    weights = {name: tensor.contiguous() for name, tensor in public.backbone.state_dict().items()}
    save_file(weights, folder / "public.safetensors")
    box = bundles.assemble(spec, SECRET)
    own = box.network.get_parameter("backbone.0.weight").detach()
    box.network.load_state_dict({**public.state_dict(), "backbone.0.weight": own})
    bundles.save(folder / "colours", spec, box.state_dict(), SECRET)
    found = in_process(Predictor(folder / "colours", SECRET, CPU), SECRET, None, folder / "public.safetensors", OWN)
    assert found.locked is not None
    return found.locked


def test_public_layers_are_judged_by_the_best_cut_and_every_cut_is_told(
    locked_from_public: Locked, tmp_path: Path
) -> None:
    rows = measured(locked_from_public, tmp_path, seeds=(0, 1))
    seeds = {name: [row.seed for row in rows if row.name == name] for name in PUBLIC}
    assert seeds == dict(zip(PUBLIC, ([0], [0, 1]), strict=True)), "what draws nothing is tried once"
    found = lock_report(locked_from_public, rows, LITTLE, TEST, [])
    alone, adapted = (figure for figure in found.figures if figure.name in PUBLIC)
    assert (list(alone.cuts), list(adapted.cuts)) == (["0", "1", "3", "4", "6", "7", "9", "10"], ["0", "3", "6", "9"])
    assert max(alone.cuts.values()) == alone.highest > 95
    verdicts = {verdict.promise: verdict for verdict in lock_verdicts(found)}
    verdict = verdicts["lock: public layers minus chance"]
    assert not verdict.kept
    assert f"; public layers up to 0 {alone.cuts['0']:.1f}, 1 " in verdict.detail
    page = render({"lock": asdict(found), "verdicts": [asdict(verdict)]})
    assert f"up to 0 {alone.cuts['0']:.1f}, 1 " in page
    assert asdict(found)["figures"][-1]["cuts"] == adapted.cuts


def test_rows_with_public_layers_are_made_anew_for_another_public_network(
    locked_from_public: Locked, tmp_path: Path
) -> None:
    measured(locked_from_public, tmp_path)
    before = set(tmp_path.iterdir())
    measured(replace(locked_from_public, base_identity="another"), tmp_path)
    assert len(set(tmp_path.iterdir()) - before) == len(PUBLIC)


def test_other_clients_and_models_have_other_keys(predictor: Predictor) -> None:
    known = locked(predictor)
    keys = [known.right, *(known.other(number) for number in range(6))]
    masks = [key.fused(SIDE, SIDE)[1] for key in keys]
    assert not any(np.array_equal(masks[i], masks[j]) for i in range(len(masks)) for j in range(i))


def tried(kind: str, name: str, *readings: tuple[float, float], seed: int = 0) -> LockRow:
    found = [Reading(raw, relabelled, {"shf": 0.25} if kind == ATTACK else None) for raw, relabelled in readings]
    return LockRow(kind, name, seed, "", 0, found, 3.0)


def report(*rows: LockRow, plain: float | None = None) -> LockReport:
    return LockReport(("shf",), 4, "trained", LITTLE, 0.1, plain, lock_figures(rows), [], 1.0)


def test_a_figure_takes_the_better_reading_of_each_key_over_all_seeds() -> None:
    (figure,) = lock_figures(
        [tried(WRONG, "random keys", (0.1, 0.3), (0.2, 0.1)), tried(WRONG, "random keys", (0.05, 0.1), seed=1)]
    )
    assert (figure.tried, figure.highest, figure.as_answered) == (3, 30.0, 10.0)
    assert figure.mean == pytest.approx(20)


@pytest.mark.parametrize(("raw", "relabelled", "kept"), [(0.1, 0.15, True), (0.0, 0.16, False), (0.16, 0.1, False)])
def test_a_lock_that_only_renames_its_answers_is_not_strong(raw: float, relabelled: float, kept: bool) -> None:
    for kind, name in ((WRONG, "no key"), (ATTACK, "hill climbing")):
        (verdict,) = lock_verdicts(report(tried(kind, name, (raw, relabelled))))
        assert verdict.kept is kept
        assert verdict.measured == pytest.approx(100 * (max(raw, relabelled) - 0.1))


@pytest.mark.parametrize(("right", "kept"), [(0.93, True), (0.91, False)])
def test_a_lock_may_cost_three_points(right: float, kept: bool) -> None:
    (verdict,) = lock_verdicts(report(tried(REFERENCE, "the right key", (right, 1.0)), plain=0.95))
    assert verdict.kept is kept
    assert not lock_verdicts(report(tried(REFERENCE, "the right key", (right, 1.0))))


def test_chance_is_the_share_of_the_most_frequent_class(predictor: Predictor) -> None:
    test = LabelledImages(TEST.images[:4], torch.tensor([0, 1, 1, 1]), TEST.classes)
    assert lock_report(locked(predictor), [], LITTLE, test, []).chance == 0.75


def test_doors_of_a_locked_model_are_those_of_who_may_unlock_it(predictor: Predictor) -> None:
    known = subject(predictor)
    assert known.doors.authorised is not None
    for door in (known.doors.public, known.doors.authorised):
        answers = door.query(TEST.images)
        assert (answers.argmax(1) == TEST.labels).float().mean() > 0.95
    assert known.default_arms == "thief: *fine-tuned*"
    assert not known.doors.thieves
    assert known.read_weights is None


def test_a_model_that_is_locked_and_boxed_gets_both(tmp_path: Path) -> None:
    both = bundle(tmp_path / "both", manifest("sdb"), trained=False)
    save_file(build("plain_cnn", len(COLOURS)).state_dict(), tmp_path / "weights.safetensors")
    known = in_process(both, SECRET, tmp_path / "weights.safetensors", tmp_path / "weights.safetensors", OWN)
    assert known.locked is not None
    assert known.locked.base is not None
    assert known.doors.teacher is not None
    assert known.doors.authorised is not None
    assert known.default_arms == "*"
    images = TEST.images[:8].float() / 255
    everyone = torch.ones(8, dtype=torch.bool)
    with torch.inference_mode():
        torch.testing.assert_close(known.doors.authorised.query(TEST.images[:8]), both.box.with_key(images, everyone))
    assert both.box.lock is not None
    bare = bundles.load_backbone("plain_cnn", len(COLOURS), tmp_path / "weights.safetensors").eval()
    with torch.inference_mode():
        torch.testing.assert_close(
            known.doors.teacher.query(TEST.images[:8]), bare((both.box.lock(images) - 0.5) / 0.5)
        )
    assert any("guessed κ" in reason for reason in known.left_out)


def test_a_model_that_is_only_locked_has_no_teacher(predictor: Predictor, tmp_path: Path) -> None:
    save_file(build("plain_cnn", len(COLOURS)).state_dict(), tmp_path / "teacher.safetensors")
    with pytest.raises(BundleError, match="no teacher"):
        in_process(predictor, SECRET, tmp_path / "teacher.safetensors", None, OWN)


def test_a_public_backbone_may_have_another_head(predictor: Predictor, tmp_path: Path) -> None:
    save_file(build("plain_cnn", 100).state_dict(), tmp_path / "public.safetensors")
    found = [in_process(predictor, SECRET, None, tmp_path / "public.safetensors", OWN).doors.networks for _ in range(2)]
    heads = [starts["public backbone"]().state_dict()["backbone.14.weight"] for starts in found]
    assert heads[0].shape[0] == len(COLOURS)
    assert torch.equal(*heads)


def test_a_public_backbone_is_normalised_as_the_network_that_a_lock_with_a_stem_began_from(tmp_path: Path) -> None:
    plain = InputSpec(height=SIDE, width=SIDE, mean=(0.1, 0.2, 0.3), std=(0.9, 0.8, 0.7))
    save_file(build("cifar_resnet8+stem2", len(COLOURS)).state_dict(), tmp_path / "public.safetensors")
    for known, mean in (({"input": plain.model_dump()}, plain.mean), ({}, InputSpec(height=SIDE, width=SIDE).mean)):
        spec = manifest().model_copy(update={"architecture": "cifar_resnet8+stem2", "provenance": known})
        predictor = bundle(tmp_path / "stemmed", spec, trained=False)
        start = in_process(predictor, SECRET, None, tmp_path / "public.safetensors", OWN).doors.networks[
            "public backbone"
        ]
        torch.testing.assert_close(start().get_buffer("mean").flatten(), torch.tensor(mean))
