"""Wrong lock keys: whole, nearly right, right in part; for a network to learn to refuse, and for figures.

Knows transforms and their keys as arrays; knows no network. Every draw comes from the generator given.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sdb_client.transforms import (
    Feistel,
    Negative,
    NegativeEach,
    Scramble,
    Shuffle,
    ShuffleEach,
    Step,
    Transform,
    fixed,
)

Key = NDArray[Any]
CODES = 1000  # an FFX table is different numbers below it
LEAST_WRONG = 0.05  # share of its entries by which a nearly right key differs
NONE, OPPOSITE = 0.125, 0.125  # odds that a wrong key is no key at all, or shows the right one's negative
STATES, ODDS = ("right", "near", "fresh", "missing"), (0.25, 0.25, 0.35, 0.15)


def fresh_key(right: Transform, blocks: int, draw: np.random.Generator) -> Transform:
    """A key of the same scheme, for images of so many blocks, that has nothing to do with the right one."""
    return _of([_fresh(step, blocks, draw) for step in right.steps], right)


def near_miss(right: Transform, blocks: int, share: float, draw: np.random.Generator) -> Transform:
    """The right key with this share of the entries of each of its steps wrong: 1 is a key with no entry right.

    Entries of a permutation trade places in a circle, at least two of them; bits of a mask are flipped.
    """
    return _of([_near(step, blocks, share, draw) for step in right.steps], right)


def wrong_keys(right: Transform, blocks: int, count: int, draw: np.random.Generator) -> list[Transform | None]:
    """`count` keys other than the right one: None where there is no key at all, the right one's opposite, or mixed.

    Of a mixed one each step is by chance right, nearly right, fresh or left out.
    """
    other = opposite(right, blocks)
    chances = draw.random(count)
    return [
        None if chance < NONE else other if chance < NONE + OPPOSITE else _mixed(right, blocks, draw)
        for chance in chances
    ]


def opposite(right: Transform, blocks: int) -> Transform | None:
    """The right key with every bit of its masks flipped, which shows a photographic negative; None if it has no mask.

    A network that knows things by their outlines knows them in a negative too.
    """
    keys = [entries(step, blocks) for step in right.steps]
    if all(key.dtype != np.bool_ for key in keys):
        return None
    pairs = zip(right.steps, keys, strict=True)
    return _of([with_entries(step, ~key) if key.dtype == np.bool_ else step for step, key in pairs], right)


def _mixed(right: Transform, blocks: int, draw: np.random.Generator) -> Transform | None:
    states = ["right"]
    while set(states) == {"right"}:
        states = draw.choice(STATES, len(right.steps), p=ODDS).tolist()
    made = [_in_state(state, step, blocks, draw) for state, step in zip(states, right.steps, strict=True)]
    steps = [step for step in made if step is not None]
    return _of(steps, right) if steps else None


def _in_state(state: str, step: Step, blocks: int, draw: np.random.Generator) -> Step | None:
    match state:
        case "right":
            return step
        case "near":
            return _near(step, blocks, draw.uniform(LEAST_WRONG, 1), draw)
        case "fresh":
            return _fresh(step, blocks, draw)
    return None


def _of(steps: Sequence[Step], right: Transform) -> Transform:
    return Transform(steps, right.block, right.channels)


def _fresh(step: Step, blocks: int, draw: np.random.Generator) -> Step:
    fresh = with_entries(step, draw.permuted(entries(step, blocks), axis=-1))
    if isinstance(fresh, Feistel):
        return replace(fresh, table=draw.permutation(CODES)[: len(fresh.table)].astype(np.uint16))
    return fresh


def _near(step: Step, blocks: int, share: float, draw: np.random.Generator) -> Step:
    return near(step, blocks, max(2, round(share * entries(step, blocks).shape[-1])), draw)


def near(step: Step, blocks: int, wrong: int, draw: np.random.Generator) -> Step:
    """The step with `wrong` ≥ 2 entries of its key wrong: of each of its permutations or masks, if it has many.

    Entries of a permutation trade places in a circle; bits are flipped.
    """
    key = entries(step, blocks).copy()
    places = np.argsort(draw.random(key.shape), axis=-1)[..., :wrong]
    chosen = np.take_along_axis(key, places, axis=-1)
    changed = ~chosen if key.dtype == np.bool_ else np.roll(chosen, 1, axis=-1)
    np.put_along_axis(key, places, changed, axis=-1)
    return with_entries(step, key)


def entries(step: Step, blocks: int) -> Key:
    """The key of a step, whose last axis has one entry for each value of a block, or for each block."""
    match step:
        case Shuffle():
            return step.permutation
        case Negative() | Feistel():
            return step.mask
        case Scramble() | ShuffleEach() | NegativeEach():
            return step.key_for(blocks)
    raise TypeError(f"a step of another kind: {step!r}")


def with_entries(step: Step, key: Key) -> Step:
    """The step with another key."""
    match step:
        case Shuffle():
            return Shuffle(key)
        case Negative() | Feistel():
            return replace(step, mask=key)
        case Scramble() | ShuffleEach() | NegativeEach():
            return replace(step, key_for=fixed(key))
    raise TypeError(f"a step of another kind: {step!r}")
