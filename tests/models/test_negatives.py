"""Laws of wrong keys: they are wrong, by as much as was asked for, and the same for the same generator."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sdb_client.transforms import Feistel, Negative, Shuffle, Transform

from models.lock import lock_transform
from models.training.negatives import fresh_key, near_miss, opposite, wrong_keys
from tests.conftest import SECRET, smooth_images

BLOCKS = 64  # of 4 x 4 pixels, in an image of 32 x 32
PIXELS = smooth_images(2).permute(0, 2, 3, 1).numpy()
SCHEMES = [("shf",), ("np",), ("scramble",), ("shf-each",), ("np-each",), ("ffx",), ("shf", "np"), ("scramble", "ffx")]


def right(steps: Sequence[str]) -> Transform:
    return lock_transform(SECRET, "tiny", steps, 4)


def differs(first: Transform, second: Transform) -> float:
    return float((first.apply(PIXELS) != second.apply(PIXELS)).mean())


def keys(transform: Transform) -> list[NDArray[Any]]:
    found: list[NDArray[Any]] = []
    for step in transform.steps:
        match step:
            case Shuffle():
                found.append(step.permutation)
            case Negative() | Feistel():
                found.append(step.mask)
            case _:
                found.append(step.key_for(BLOCKS))  # type: ignore[attr-defined]
    return found


@pytest.mark.parametrize("steps", SCHEMES, ids="+".join)
def test_a_fresh_key_is_of_the_same_scheme_and_has_nothing_of_the_right_one(steps: tuple[str, ...]) -> None:
    transform = right(steps)
    wrong = fresh_key(transform, BLOCKS, np.random.default_rng(0))
    assert [step.name for step in wrong.steps] == list(steps)
    assert differs(wrong, transform) > 0.2
    assert (wrong.invert(wrong.apply(PIXELS)) == PIXELS).all()
    for guess, key in zip(keys(wrong), keys(transform), strict=True):
        by_luck = 0.5 if key.dtype == np.bool_ else 1 / key.shape[-1]
        assert abs((guess == key).mean() - by_luck) < 0.35


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("steps", SCHEMES, ids="+".join)
def test_a_near_miss_has_exactly_its_share_of_wrong_entries(steps: tuple[str, ...], share: float) -> None:
    transform = right(steps)
    wrong = near_miss(transform, BLOCKS, share, np.random.default_rng(0))
    for guess, key in zip(keys(wrong), keys(transform), strict=True):
        assert ((guess != key).sum(-1) == max(2, round(share * key.shape[-1]))).all()


@pytest.mark.parametrize("steps", SCHEMES, ids="+".join)
def test_wrong_keys_are_never_the_right_one_and_sometimes_none(steps: tuple[str, ...]) -> None:
    transform = right(steps)
    found = wrong_keys(transform, BLOCKS, 40, np.random.default_rng(0))
    assert len(found) == 40
    assert None in found
    assert all(differs(wrong, transform) > 0 for wrong in found if wrong is not None)


def test_wrong_keys_of_a_composition_may_have_a_part_right() -> None:
    transform = right(("shf", "np"))
    found = [wrong for wrong in wrong_keys(transform, BLOCKS, 80, np.random.default_rng(0)) if wrong is not None]
    names = {"+".join(step.name for step in wrong.steps) for wrong in found}
    assert names == {"shf", "np", "shf+np"}
    whole = [wrong for wrong in found if len(wrong.steps) == 2]
    assert any(np.array_equal(keys(wrong)[0], keys(transform)[0]) for wrong in whole)
    assert any(np.array_equal(keys(wrong)[1], keys(transform)[1]) for wrong in whole)
    assert any((wrong.apply(PIXELS) == 255 - transform.apply(PIXELS)).all() for wrong in whole), "the negative"


def test_the_opposite_key_shows_the_negative_and_a_permutation_has_none() -> None:
    transform = right(("shf", "np"))
    other = opposite(transform, BLOCKS)
    assert other is not None
    assert (other.apply(PIXELS) == 255 - transform.apply(PIXELS)).all()
    assert opposite(right(("scramble", "shf-each")), BLOCKS) is None


def test_the_generator_decides_the_keys() -> None:
    transform = right(("shf", "ffx"))
    first, again, other = (fresh_key(transform, BLOCKS, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert differs(first, again) == 0
    assert differs(first, other) > 0.2
