"""The shuffle from one encrypted photo and nothing else, by matching correlations.

In any photo close values correlate more than distant ones. The attacker knows how much (a formula, no photo), measures
the correlations of the encrypted one between the places of a block and those of the same, the right-hand and the
lower block, and asks which shuffle makes one look like the other: a quadratic assignment, relaxed and solved by
Frank and Wolfe's steps (FAQ; Vogelstein et al., PLOS ONE 10 (2015)).
"""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]
from sdb_client.transforms import Shuffle

from tests.client.cryptanalysis import CHANNELS, Pixels, to_blocks

Matrix = NDArray[np.float64]
LENGTH = 30.0  # pixels over which the correlation of a photo falls to 1/e, roughly
BETWEEN_CHANNELS = 0.9
STARTS, STEPS = 10, 30


def shuffle_from_ciphertext(encrypted: Pixels, block: int) -> Shuffle:
    """The best of some starts. Places are found well, which of a place's channels is which is often not."""
    seen, expected = _measured(encrypted, block), _expected(block)
    size = block * block * CHANNELS
    random = np.random.default_rng(0)
    starts = [np.full((size, size), 1 / size)]
    starts += [(starts[0] + _doubly_stochastic(random.random((size, size)))) / 2 for _ in range(STARTS - 1)]
    found = [_descend(seen, expected, start) for start in starts]
    return Shuffle(
        max(found, key=lambda p: sum(np.vdot(s, e[np.ix_(p, p)]) for s, e in zip(seen, expected, strict=True)))
    )


def _measured(encrypted: Pixels, block: int) -> list[Matrix]:
    across = encrypted.shape[1] // block
    values = to_blocks(encrypted, block).astype(float)
    values = (values - values.mean(0)) / (values.std(0) + 1e-9)
    grid = values.reshape(-1, across, values.shape[1])
    pairs = [(grid, grid), (grid[:, :-1], grid[:, 1:]), (grid[:-1], grid[1:])]
    return [_centred(np.einsum("yxi,yxj->ij", first, second)) for first, second in pairs]


def _expected(block: int) -> list[Matrix]:
    y, x, channel = np.indices((block, block, CHANNELS)).reshape(3, -1)
    alike = np.where(channel[:, None] == channel, 1, BETWEEN_CHANNELS)
    offsets = [(0, 0), (0, block), (block, 0)]
    distances = [np.hypot(y + down - y[:, None], x + right - x[:, None]) for down, right in offsets]
    return [_centred(alike * np.exp(-distance / LENGTH)) for distance in distances]


def _centred(matrix: Matrix) -> Matrix:
    centred = matrix - matrix.mean()
    scaled: Matrix = centred / np.linalg.norm(centred)
    return scaled


def _doubly_stochastic(matrix: Matrix) -> Matrix:
    for _ in range(20):
        matrix = matrix / matrix.sum(0)
        matrix = matrix / matrix.sum(1, keepdims=True)
    return matrix


def _descend(seen: list[Matrix], expected: list[Matrix], soft: Matrix) -> NDArray[np.intp]:
    """A permutation near a maximum of Σ ⟨S X, X E⟩ over doubly stochastic X, from the start `soft`."""
    pairs = list(zip(seen, expected, strict=True))
    for _ in range(STEPS):
        gradient = np.sum([s @ soft @ e.T + s.T @ soft @ e for s, e in pairs], axis=0)
        step = np.eye(len(soft))[_assignment(gradient)] - soft
        slope, curvature = np.vdot(gradient, step), sum(np.vdot(s @ step, step @ e) for s, e in pairs)
        length = min(1.0, -slope / (2 * curvature)) if curvature < 0 else 1.0
        if length * (slope + length * curvature) < 1e-9:
            break
        soft = soft + length * step
    return _assignment(soft)


def _assignment(gain: Matrix) -> NDArray[np.intp]:
    chosen: NDArray[np.intp] = linear_sum_assignment(gain, maximize=True)[1]
    return chosen
