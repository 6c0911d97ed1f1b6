"""Hill climbing: one entry of the key after the other is changed, and changed back if that made it worse.

The heuristic search of AprilPyone and Kiya's code (`adaptive_attacks.py`), for every step of a scheme: two entries of a
permutation are swapped, one bit of a mask is flipped. Knows one labelled batch and what the network says of it.
"""

from functools import lru_cache

import numpy as np
from sdb_client.transforms import Transform

from models.attacks.locks.keys import Entries, Scheme, random_key
from models.attacks.locks.thief import Opened, Score, Thief, accuracy
from models.progress import followed
from models.training.negatives import entries, with_entries


def steal(thief: Thief, *, score: Score = accuracy) -> Opened:
    """From a random key, every change kept under which `score` does not fall; until sweeps or keys are spent.

    The authors sweep in order. Here each sweep has an order of its own, so that keys that are spent before its end
    leave no part of the key untouched. An FFX step's table is no key that one could feel one's way to: it stays.
    """
    judge, draw, left = thief.judge(*thief.held(thief.budget.batch), score), thief.draw(), thief.budget.keys
    key = random_key(thief.scheme, draw)
    count = neighbours(key, thief.scheme)
    (highest,) = judge([key])
    for sweep in range(1, thief.budget.sweeps + 1):
        order = draw.choice(count, min(count, left), replace=False).tolist()
        left -= len(order)
        for number in followed(order, f"hill climbing, sweep {sweep}"):
            changed = neighbour(key, thief.scheme, number)
            (found,) = judge([changed])
            if found >= highest:
                key, highest = changed, found
    return Opened(thief.front(key), key)


def neighbours(key: Transform, scheme: Scheme) -> int:
    """How many keys differ from `key` by one swap or one flipped bit of one step."""
    return sum(_changes(entries(step, scheme.blocks)) for step in key.steps)


def neighbour(key: Transform, scheme: Scheme, number: int) -> Transform:
    """One of these keys, by its number."""
    steps = list(key.steps)
    for place, step in enumerate(steps):
        known = entries(step, scheme.blocks)
        if number < _changes(known):
            steps[place] = with_entries(step, _changed(known, number))
            return scheme.key(steps)
        number -= _changes(known)
    raise IndexError("fewer neighbours than that")


def _changes(known: Entries) -> int:
    length = known.shape[-1]
    return known.size if known.dtype == np.bool_ else known.size // length * (length * (length - 1) // 2)


def _changed(known: Entries, number: int) -> Entries:
    changed = known.copy()
    if changed.dtype == np.bool_:
        changed.flat[number] ^= True
        return changed
    first, second = _pairs(known.shape[-1])
    row, pair = divmod(number, len(first))
    places = [first[pair], second[pair]]
    orders = changed.reshape(-1, known.shape[-1])
    orders[row, places] = orders[row, places[::-1]]
    return changed


@lru_cache(maxsize=4)
def _pairs(length: int) -> tuple[Entries, Entries]:
    return np.triu_indices(length, 1)
