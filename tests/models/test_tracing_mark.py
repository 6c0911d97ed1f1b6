"""Laws of a key's mark: it is the key's, it is small, it is slow, and it never changes the top-1."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from models.data import Pixels, fit
from models.tracing.mark import MARGIN, Mark
from models.tracing.waves import Floats, waves
from tests.conftest import SECRET, smooth_images

CLASSES = 10
PIXELS: Pixels = np.ascontiguousarray(smooth_images(256, seed=3).permute(0, 2, 3, 1).numpy())
MARK = Mark.derive(SECRET, "key-1", CLASSES)


def logits(count: int = 256, classes: int = CLASSES) -> Floats:
    return np.random.default_rng(0).normal(0, 3, (count, classes)).astype(np.float32)


def test_the_mark_is_decided_by_secret_key_and_number_of_classes() -> None:
    again = Mark.derive(SECRET, "key-1", CLASSES)
    np.testing.assert_array_equal(again.apply(PIXELS, logits(), 0.3), MARK.apply(PIXELS, logits(), 0.3))
    others = (
        Mark.derive(SECRET, "key-2", CLASSES),
        Mark.derive(bytes(reversed(SECRET)), "key-1", CLASSES),
        Mark.derive(SECRET, "key-1", CLASSES + 1),
    )
    for other in others:
        assert not np.array_equal(other.phases, MARK.phases)
    assert not np.array_equal(others[0].signs, MARK.signs)


def test_a_row_is_marked_alike_whatever_stands_beside_it() -> None:
    together = MARK.apply(PIXELS, logits(), 0.3)
    alone = np.concatenate([MARK.apply(PIXELS[i : i + 1], logits()[i : i + 1], 0.3) for i in range(8)])
    np.testing.assert_allclose(together[:8], alone, atol=1e-4)


@settings(max_examples=50, deadline=None)
@given(
    arrays.arrays(np.float32, (4, 5), elements=st.sampled_from([-3.0, 0.0, 1.0, 1.0625, 2.0, 1e4])),
    st.floats(0, 1),
)
def test_the_top1_stays_the_top1_and_ties_stay_ties_whatever_the_logits(found: Floats, strength: float) -> None:
    marked = Mark.derive(SECRET, "key-1", 5).apply(PIXELS[:4], found, strength)
    np.testing.assert_array_equal(marked.argmax(axis=1), found.argmax(axis=1))
    np.testing.assert_array_equal(marked.max(axis=1), found.max(axis=1))
    nearer = marked > np.maximum(found, found.max(axis=1, keepdims=True) - np.float32(MARGIN))
    assert not nearer.any()


def test_what_is_added_is_bounded_and_as_strong_as_was_asked_for() -> None:
    low = logits()
    low[:, 0] = 100  # nothing meets the ceiling
    added = MARK.apply(PIXELS, low, 0.3)[:, 1:] - low[:, 1:]
    assert np.abs(added).max() <= 0.3 * 7
    assert 0.2 < np.sqrt((added**2).mean()) < 0.4


def test_strength_zero_adds_nothing() -> None:
    np.testing.assert_array_equal(MARK.apply(PIXELS, logits(), 0), logits())


def test_what_it_is_given_stays_as_it_was() -> None:
    before = logits()
    MARK.apply(PIXELS, before, 0.5)
    np.testing.assert_array_equal(before, logits())


def test_the_mirror_image_has_the_same_mark() -> None:
    mirrored = np.ascontiguousarray(PIXELS[:, :, ::-1])
    np.testing.assert_allclose(MARK.tones(waves(mirrored)), MARK.tones(waves(PIXELS)), atol=1e-3)


def test_the_same_picture_in_another_size_has_nearly_the_same_mark() -> None:
    """So that the answers about a training set that was stored smaller can still be read."""
    larger = np.stack([fit(Image.fromarray(image), 64, 64) for image in PIXELS])
    difference = MARK.tones(waves(larger)) - MARK.tones(waves(PIXELS))
    assert np.sqrt((difference**2).mean()) < 0.1


@pytest.mark.parametrize(("secret", "classes"), [(b"short", 10), (SECRET, 2)])
def test_a_short_secret_and_two_classes_are_refused(secret: bytes, classes: int) -> None:
    with pytest.raises(ValueError, match=r"tracing secret|3 classes"):
        Mark.derive(secret, "key-1", classes)
