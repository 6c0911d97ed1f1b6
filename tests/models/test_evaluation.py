"""Laws of the evaluation: who is given what, what is kept on disk, and how promises are judged."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from models import bundles, metrics
from models.attacks import stolen
from models.attacks.attacker import Trainer
from models.attacks.oracle import Metered, Remembered
from models.backbones import build
from models.bundles import GuardSpec, InputSpec, Manifest
from models.evaluation import tiers, weights
from models.evaluation.arms import (
    ATTACK,
    FOREIGN,
    KEY_HOLDER,
    LABELLED,
    REFERENCE,
    UNLABELLED,
    Arm,
    Doors,
    Holdings,
    arms,
)
from models.evaluation.kept import kept, place
from models.evaluation.study import Row, Setting, run
from models.evaluation.summary import Verdict, figures, verdicts
from models.key_stream import fingerprint
from models.normalisation import normalisation
from models.training.loop import Interrupted, Recipe, predict
from tests.conftest import SECRET, smooth_images
from tests.models.test_training import CPU, FABRIC, classifier, interrupted_at, shades


class Labels:
    """A door that answers by brightness, as an excellent model of `shades` would."""

    def __init__(self) -> None:
        self.asked: list[Tensor] = []

    def query(self, images: Tensor) -> Tensor:
        self.asked.append(images)
        brightness = images.float().mean((1, 2, 3))
        centres = torch.tensor([32.0, 92.0, 152.0, 212.0])
        return -((brightness[:, None] - centres) / 20).square()


def holdings(foreign: bool = False) -> Holdings:
    return Holdings(shades(128), shades(64, seed=9).images if foreign else None)


def everything(doors: Doors, chosen: str = "*", epochs: int = 16, foreign: bool = False) -> list[Arm]:
    return arms(doors, holdings(foreign), chosen=chosen, epochs=epochs)


def trainer(epochs: int = 1, checkpoint: Path | None = None) -> Trainer:
    return Trainer(FABRIC, classifier, Recipe(epochs, 0.05, batch_size=32), "t", checkpoint)


def test_without_a_key_nobody_is_given_clean_answers() -> None:
    keyless = everything(Doors(Labels(), authorised=None, teacher=None))
    assert not any(arm.group == KEY_HOLDER for arm in keyless)
    assert not {"ridge regression", "partial Bayes", "D-DAE"} & {arm.name for arm in keyless}
    full = everything(Doors(Labels(), Labels(), Labels()))
    assert {"ridge regression", "partial Bayes", "D-DAE"} < {arm.name for arm in full}
    assert {arm.group for arm in full} == {REFERENCE, KEY_HOLDER, ATTACK}


def test_every_attack_is_run_without_labels_and_where_it_matters_with_them() -> None:
    attacks = [arm for arm in everything(Doors(Labels(), Labels(), None)) if arm.group == ATTACK and arm.share == 1]
    blind = {arm.name for arm in attacks if arm.holdings == UNLABELLED}
    labelled = {arm.name for arm in attacks if arm.holdings == LABELLED}
    assert labelled < blind
    assert "hard labels" in blind - labelled
    assert "class means" in labelled


def test_foreign_images_and_fewer_images_are_arms_of_their_own() -> None:
    found = everything(Doors(Labels(), None, None), chosen="attack: hard labels", foreign=True)
    assert [(arm.holdings, arm.share) for arm in found] == [
        (UNLABELLED, 1.0),
        (UNLABELLED, 0.1),
        (UNLABELLED, 0.5),
        (FOREIGN, 1.0),
    ]
    door = Labels()
    part = next(arm for arm in everything(Doors(door, None, None), chosen="attack: hard labels") if arm.share == 0.5)
    part.learn(trainer())
    assert sum(len(images) for images in door.asked) == 64


def test_nobody_is_shown_more_views_than_there_are_epochs() -> None:
    names = [arm.name for arm in everything(Doors(Labels(), Labels(), None), chosen="key holder: *", epochs=4)]
    assert "key, 4 views" in names
    assert "key, 8 views" not in names


def test_each_view_is_asked_about_and_charged_once() -> None:
    door = Labels()
    arm = next(arm for arm in everything(Doors(Labels(), door, None), chosen="*2 views"))
    _, metered = arm.learn(trainer(epochs=4))
    assert metered.queries == 2 * 128
    assert not torch.equal(door.asked[0], door.asked[1])


def test_a_remembered_answer_is_not_asked_for_again() -> None:
    door = Labels()
    remembered, images = Remembered(door), shades(20).images
    first = remembered.query(images)
    assert torch.equal(remembered.query(images.flip(0)), first.flip(0))
    assert len(door.asked) == 1
    assert torch.equal(first, door.query(images))


def row(name: str, seed: int, test: float, validation: float, **changed: object) -> Row:
    known = {"group": ATTACK, "holdings": UNLABELLED, "share": 1.0, "student": "s", "queries": 100}
    return Row(**{**known, **changed}, name=name, seed=seed, test_top1=test, validation_top1=validation,  # type: ignore[arg-type]
               query_seconds=1.0, seconds=2.0)  # fmt: skip


def judged(rows: list[Row], promise: str) -> Verdict:
    return next(verdict for verdict in verdicts(rows, [], None, classes=10) if promise in verdict.promise)


FLOOR = [row("hard labels", seed, 0.70 + seed / 100, 0.70) for seed in (0, 1, 2)]


def test_the_best_attack_is_the_one_that_its_owner_would_choose() -> None:
    """On validation images: the one that is best on the test set by luck is only named."""
    chosen = [row("mixing with labels", seed, 0.701 + seed / 100, 0.72) for seed in (0, 1, 2)]
    lucky = [row("sharpening", seed, 0.75, 0.60) for seed in (0, 1, 2)]
    verdict = judged([*FLOOR, *chosen, *lucky], "reads the vector, without labels, minus hard labels")
    assert verdict.measured == pytest.approx(0.1)
    assert "sharpening, 75.0 %" in verdict.detail


def test_a_difference_is_taken_seed_by_seed() -> None:
    better = [row("mixing with labels", seed, 0.702 + seed / 100, 0.72) for seed in (0, 1, 2)]
    verdict = judged([*FLOOR, *better], "without labels, minus hard labels")
    assert verdict.measured == pytest.approx(0.2)
    assert verdict.standard_error == pytest.approx(0, abs=1e-9)
    assert not verdict.kept, "0.2 points that every seed shows are more than chance"
    noisy = [row("mixing with labels", seed, 0.702 + seed / 100 + (seed - 1) / 50, 0.72) for seed in (0, 1, 2)]
    assert judged([*FLOOR, *noisy], "without labels, minus hard labels").kept


def test_attacks_that_read_the_top1_alone_do_not_count_as_reading_the_vector() -> None:
    votes = [row("KnockoffNets, top-1", seed, 0.9, 0.9) for seed in (0, 1, 2)]
    readers = [row("sharpening", seed, 0.69 + seed / 100, 0.69) for seed in (0, 1, 2)]
    assert judged(
        [*FLOOR, *votes, *readers], "reads the vector, without labels, minus hard labels"
    ).measured == pytest.approx(-1.0)
    against = judged([*FLOOR, *votes, *readers], "the best that reads the top-1 only")
    assert "KnockoffNets, top-1: 90.0" in against.detail


def test_who_asks_more_is_judged_against_who_asks_as_much() -> None:
    votes = [row("augmentations, votes", seed, 0.80 + seed / 100, 0.8, queries=400) for seed in (0, 1, 2)]
    vectors = [row("augmentations", seed, 0.79 + seed / 100, 0.79, queries=400) for seed in (0, 1, 2)]
    fewer = [row("KnockoffNets, top-1", seed, 0.72 + seed / 100, 0.72, queries=96) for seed in (0, 1, 2)]
    readers = [row("sharpening", seed, 0.69 + seed / 100, 0.69) for seed in (0, 1, 2)]
    rows = [*FLOOR, *votes, *vectors, *fewer, *readers]
    assert judged(rows, "several views of each image").measured == pytest.approx(-1)
    assert judged(rows, "the best that reads the top-1 only").measured == pytest.approx(-3)
    everything = judged(rows, "best attack of all without labels")
    assert everything.measured == pytest.approx(10)
    assert not everything.kept


def test_naive_students_must_fall_by_fifteen_points() -> None:
    for fallen, enough in ((0.54, True), (0.56, False)):
        naive = [row("soft labels, T = 4, α = 1", seed, fallen + seed / 100, 0.5) for seed in (0, 1, 2)]
        verdict = judged([*FLOOR, *naive], "naive student of the public answers (T = 4, α = 1)")
        assert verdict.kept is enough


def test_figures_are_means_in_percent_with_standard_errors() -> None:
    (figure,) = figures(FLOOR)
    assert figure.test_top1 == pytest.approx(71)
    assert figure.standard_error == pytest.approx(1 / 3**0.5)
    assert figure.seeds == 3
    assert figures(FLOOR[:1])[0].standard_error is None


def alone(learned: list[int], stop_at: int = 0) -> Arm:
    """A student of true labels that meets Ctrl-C in its step `stop_at`."""

    def learn(trainer: Trainer) -> tuple[nn.Module, Metered]:
        learned.append(trainer.recipe.seed)
        data = shades(128)
        return trainer.fit(data.images, data.labels, interrupted_at(stop_at)), Metered(Labels())

    return Arm(REFERENCE, "alone", LABELLED, 1.0, learn)


def study(folder: Path, arm: Arm, **changed: object) -> list[Row]:
    setting = Setting({"model": "m"}, Recipe(2, 0.05, batch_size=32), {"tiny": classifier}, [0, 1])
    setting = replace(setting, **changed)  # type: ignore[arg-type]
    held = shades(64, seed=3)
    return run([arm], setting, FABRIC, folder, validation=held, test=held, told=lambda *_: None)


def test_a_row_on_disk_is_not_trained_again(tmp_path: Path) -> None:
    learned: list[int] = []
    first = study(tmp_path, alone(learned))
    assert study(tmp_path, alone(learned)) == first
    assert learned == [0, 1]
    study(tmp_path, alone(learned), seeds=[2])
    study(tmp_path, alone(learned), subject={"model": "other"})
    assert learned == [0, 1, 2, 0, 1], "another model's rows are not this one's"
    assert not list(tmp_path.glob("*pt")), "no checkpoint of a finished row is left"


def test_ctrl_c_outside_of_our_own_loop_says_what_stopped(tmp_path: Path) -> None:
    def learn(_: Trainer) -> tuple[nn.Module, Metered]:
        raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="alone stopped"):
        study(tmp_path, Arm(REFERENCE, "alone", LABELLED, 1.0, learn))


def test_an_interrupted_student_is_gone_on_with(tmp_path: Path) -> None:
    whole = study(tmp_path / "whole", alone([]), seeds=[0])
    with pytest.raises(Interrupted, match="after 3 of 8 steps"):
        study(tmp_path / "stopped", alone([], stop_at=3), seeds=[0])
    resumed, _ = study(tmp_path / "stopped", alone([]), seeds=[0, 1])
    assert replace(resumed, seconds=whole[0].seconds) == whole[0]


def test_calibration_of_a_hand_made_case() -> None:
    """Two rows at 0.75, one right; two at 0.95, both right: |0.5 − 0.75|/2 + |1 − 0.95|/2."""
    probabilities = torch.tensor([[0.75, 0.25], [0.75, 0.25], [0.95, 0.05], [0.95, 0.05]])
    labels = torch.tensor([0, 1, 0, 0])
    assert metrics.calibration_error(probabilities.log(), labels) == pytest.approx(0.15, abs=1e-5)
    assert [group.share for group in metrics.reliability(probabilities.log(), labels)] == [0.5, 0.5]
    assert metrics.kl_divergence(probabilities.log(), probabilities.log()) == pytest.approx(0, abs=1e-6)


def test_tiers_are_compared_with_the_teacher_where_there_is_one() -> None:
    test = shades(64)
    lone = tiers.measure({"public": Labels()}, test)
    assert (lone[0].agreement, lone[0].l1) == (None, None)
    assert lone[0].repeats_alike
    both = tiers.measure({"teacher": Labels(), "public": Labels()}, test)
    assert both[1].agreement == 1.0
    assert both[1].gains == {"teacher": (0.0, 0.0)}
    assert both[1].l1 == pytest.approx(0, abs=1e-6)


def test_readings_of_stolen_weights() -> None:
    """Of a network that is its own teacher: without a key it is as the teacher, and every wrong key is another one."""
    torch.manual_seed(0)
    manifest = Manifest(
        name="t",
        architecture="cifar_resnet8",
        classes=("a", "b", "c", "d"),
        input=InputSpec(height=32, width=32),
        guard=GuardSpec(secret_fingerprint=fingerprint(SECRET)),
    )
    box = bundles.assemble(manifest, SECRET)
    box.release.calibrate(smooth_images(256))
    held, test = shades(64), shades(64, seed=1)
    found = weights.measure(box, box.network.eval(), held, test, CPU, keys=3, steps=3)
    assert found.without.kl == pytest.approx(0, abs=1e-5), "the teacher is the network itself"
    assert len(found.wrong) == 3
    assert len({reading.kl for reading in found.wrong}) == 3
    assert found.near[0].name == "1% of the pixels wrong"
    assert all(parameter.requires_grad for parameter in box.network.parameters()), "the search leaves it as it was"


def test_what_is_kept_is_made_once_for_the_same_facts(tmp_path: Path) -> None:
    reading = weights.Reading("no key", 0.5, 0.1, 0.2)
    five = (reading, reading, reading, reading, reading)
    readings = weights.Weights(0.9, *five, wrong=[reading] * 2, near=[reading], lambdas=[], inverted=reading)
    made: list[weights.Weights] = []

    def make() -> weights.Weights:
        made.append(readings)
        return readings

    for facts, times in (({"seed": 0}, 1), ({"seed": 0}, 1), ({"seed": 1}, 2)):
        assert kept(place(tmp_path / "rows", facts), weights.Weights, make, "reading") == readings
        assert len(made) == times


def test_recalibrated_batch_norm_is_that_of_the_images_alone() -> None:
    """Statistics of quite other rows are forgotten; weights are shared with nobody, and stay as they were."""
    torch.manual_seed(0)
    network, images = build("plain_cnn", 4).eval(), shades(64).images
    said = network(images.float() / 255)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.get_buffer("running_mean"), 3)
    found, again = stolen.recalibrated(network, images), stolen.recalibrated(network, images)
    assert not found.training
    assert torch.equal(found(images.float() / 255), again(images.float() / 255))
    whole = network.train()(images.float() / 255)  # by the statistics of the batch, which is all of the images
    assert torch.allclose(found(images.float() / 255), whole, atol=2e-2)
    assert not torch.allclose(said, whole, atol=1e-1)


def test_a_sought_normalisation_is_all_that_a_refitted_network_changes() -> None:
    """A network that lacks nothing but its normalisation finds one that answers; the stolen one stays as it is."""
    torch.manual_seed(0)
    known, test = shades(256), shades(64, seed=1)
    network = build("cifar_resnet8", 4).eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    found = stolen.renormalised(network, known.images, known.labels, steps=60, seed=0)
    own, changed = set(normalisation(network)), dict(found.named_parameters())
    assert all(name in own or torch.equal(tensor, changed[name]) for name, tensor in network.named_parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    right = [metrics.top1(predict(one, test.images, CPU), test.labels) for one in (network, found)]
    assert right[0] < 0.5
    assert right[1] > 0.7
