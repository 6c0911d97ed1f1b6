"""Numbers of an answer: what is greatest, and what is probable."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.answers import greatest, probabilities_of


@pytest.mark.parametrize("classes", [2, 10, 255, 256, 1000, 5000])
@pytest.mark.parametrize("count", [1, 5, 256, 10_000])
def test_the_greatest_are_those_that_sorting_all_finds_ties_in_their_order(classes: int, count: int) -> None:
    draw = np.random.default_rng(classes)
    for drawn in (draw.normal(size=(4, classes)), draw.integers(0, 4, (4, classes)), np.zeros((1, classes))):
        scores = drawn.astype(np.float32)
        expected = np.argsort(-scores, axis=1, kind="stable")[:, :count]
        assert np.array_equal(np.stack(list(greatest(scores, count))), expected)


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.01, 0.3, 1.0, 4.0, 1000.0]), st.sampled_from([2, 10, 1000]))
def test_probabilities_are_the_softmax_to_float32_at_any_temperature(
    seed: int, temperature: float, classes: int
) -> None:
    logits = (np.random.default_rng(seed).normal(size=(3, classes)) * 20).astype(np.float32)
    exact = logits.astype(np.float64) / temperature
    exact = np.exp(exact - exact.max(axis=1, keepdims=True))
    exact /= exact.sum(axis=1, keepdims=True)
    probabilities = probabilities_of(logits, temperature)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities, exact, rtol=2e-5, atol=1e-9)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)


def test_probabilities_leave_the_logits_as_they_were() -> None:
    logits = np.arange(6, dtype=np.float32).reshape(2, 3)
    probabilities_of(logits, 2.0)
    assert np.array_equal(logits, np.arange(6, dtype=np.float32).reshape(2, 3))
