"""Laws of the detection: the key that is in the answers is found, and an innocent one only as often as is said."""

import itertools

import numpy as np
import pytest

from models.data import Pixels
from models.tracing.detection import tail, trace
from models.tracing.mark import Mark
from models.tracing.waves import Floats
from tests.conftest import SECRET, smooth_images

CLASSES, IMAGES = 10, 1000
PIXELS: Pixels = np.ascontiguousarray(smooth_images(IMAGES, seed=3).permute(0, 2, 3, 1).numpy())
DRAW = np.random.default_rng(0)
CLEAN: Floats = DRAW.normal(0, 3, (IMAGES, CLASSES)).astype(np.float32)
HABITS: Floats = DRAW.normal(0, 1, (CLASSES, CLASSES)).astype(np.float32)[CLEAN.argmax(axis=1)]  # of all such students
NOISE: Floats = DRAW.normal(0, 1.5, CLEAN.shape).astype(np.float32)
MARKS = {f"key-{number}": Mark.derive(SECRET, f"key-{number}", CLASSES) for number in range(100)}


def softmax(logits: Floats) -> Floats:
    powers: Floats = np.exp(logits - logits.max(axis=1, keepdims=True))
    powers /= powers.sum(axis=1, keepdims=True)
    return powers


def student(*keys: str, strength: float = 0.5) -> Floats:
    """The probabilities of one that has learned the mean of these keys' labels not too well; without keys, clean."""
    labels = [MARKS[key].apply(PIXELS, CLEAN, strength) for key in keys] or [CLEAN]
    return softmax(np.mean(labels, axis=0) + NOISE + HABITS)


def test_the_key_that_is_in_the_answers_is_found_and_no_other() -> None:
    first, *others = trace(student("key-7"), CLEAN, PIXELS, MARKS)
    assert first.key_id == "key-7"
    assert first.corrected < 1e-6
    assert min(other.corrected for other in others) > 0.01
    assert len(others) == len(MARKS) - 1


def test_nobody_is_found_in_what_was_learned_without_a_mark() -> None:
    assert min(one.corrected for one in trace(student(), CLEAN, PIXELS, MARKS)) > 0.01


def test_the_scores_of_innocent_keys_have_mean_0_and_standard_deviation_1_though_students_have_habits() -> None:
    scores = np.array([one.score for one in trace(student("key-7"), CLEAN, PIXELS, MARKS) if one.key_id != "key-7"])
    assert abs(scores.mean()) < 4 / np.sqrt(len(scores))
    assert 0.85 < scores.std() < 1.15


@pytest.mark.parametrize("weights", [(1,) * 12, (6, 5, 4, 3, 2, 1) * 2, (9, 9, *(1,) * 10), (1,)])
def test_no_weighted_coins_reach_a_score_more_often_than_the_tail_says(weights: tuple[int, ...]) -> None:
    sums = np.array(list(itertools.product((-1, 1), repeat=len(weights)))) @ np.array(weights)
    scores = sums / np.linalg.norm(weights)
    for score in np.unique(scores):
        assert (scores >= score - 1e-9).mean() <= tail(score)


def test_what_the_references_do_too_is_no_mark_and_no_noise() -> None:
    reference = softmax(CLEAN + HABITS)
    marks = {"key-7": MARKS["key-7"]}
    suspect = student("key-7", strength=0.25)
    (alone,), (beside,) = trace(suspect, CLEAN, PIXELS, marks), trace(suspect, CLEAN, PIXELS, marks, [reference])
    assert beside.score > alone.score


def test_the_temperature_of_the_answers_changes_nothing() -> None:
    warm = softmax((np.log(student("key-7")) / 4).astype(np.float32))
    marks = {key: MARKS[key] for key in ("key-7", "key-8")}
    for cold_one, warm_one in zip(
        trace(student("key-7"), CLEAN, PIXELS, marks), trace(warm, CLEAN, PIXELS, marks), strict=True
    ):
        assert warm_one.score == pytest.approx(cold_one.score, abs=0.05)


def test_two_keys_that_put_their_labels_together_are_both_found() -> None:
    first, second, *_ = trace(student("key-7", "key-8"), CLEAN, PIXELS, MARKS)
    assert {first.key_id, second.key_id} == {"key-7", "key-8"}


def test_answers_rounded_to_two_decimals_still_tell() -> None:
    assert trace(student("key-7").round(2), CLEAN, PIXELS, MARKS)[0].key_id == "key-7"


def test_the_top1_alone_is_taken_too() -> None:
    """Its power is small: here the mark is as strong as what the model knows."""
    found = trace(student("key-7", strength=3).argmax(axis=1), CLEAN, PIXELS, MARKS)
    assert len(found) == len(MARKS)
    assert all(np.isfinite(one.score) for one in found)


@pytest.mark.parametrize("count", [1, 20])
def test_few_images_and_a_suspect_that_always_says_the_same_accuse_nobody(count: int) -> None:
    marks = {"key-7": MARKS["key-7"]}
    always = np.zeros(count, dtype=np.int64)
    certain = np.eye(CLASSES, dtype=np.float32)[always]
    for answers in (always, certain):
        (found,) = trace(answers, CLEAN[:count], PIXELS[:count], marks)
        assert found.corrected > 1e-6


def test_the_corrected_p_value_is_that_of_all_keys_tested_together() -> None:
    for one in trace(student("key-7"), CLEAN, PIXELS, MARKS):
        assert one.corrected == pytest.approx(min(1, len(MARKS) * one.p_value))
        assert one.p_value == tail(one.score)
