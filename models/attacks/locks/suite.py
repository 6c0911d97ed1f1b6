"""Every attack that looks for a lock's key, or for what does without one, in the order of the report."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from models.attacks.locks import (
    adapter,
    grafts,
    hill_climbing,
    linear_layer,
    public_layers,
    random_search,
    sinkhorn,
    weight_matching,
)
from models.attacks.locks.thief import Opened, Thief, confidence

LEARNED_FROM = (128, 1000)  # labelled images


@dataclass(frozen=True)
class Attack:
    """One attack; `obstacle` says why it cannot be tried on what a thief has, None if it can.

    With `uses_base` it looks at the public backbone; without `draws` nothing of it is random, and no budget bounds it;
    with `several` it finds more than one way in.
    """

    name: str
    steal: Callable[[Thief], Iterable[Opened]]
    obstacle: Callable[[Thief], str | None] = lambda _: None
    uses_base: bool = False
    draws: bool = True
    several: bool = False


def _one(steal: Callable[[Thief], Opened]) -> Callable[[Thief], Iterable[Opened]]:
    return lambda thief: [steal(thief)]


ATTACKS: tuple[Attack, ...] = (
    Attack("random search", _one(random_search.steal)),
    Attack("hill climbing", _one(hill_climbing.steal)),
    Attack("hill climbing on the loss", _one(partial(hill_climbing.steal, score=confidence))),
    *(Attack(f"linear layer, {n} images", _one(partial(linear_layer.steal, images=n))) for n in LEARNED_FROM),
    *(
        Attack(f"soft key, {n} images", _one(partial(sinkhorn.steal, images=n)), sinkhorn.obstacle)
        for n in LEARNED_FROM
    ),
    Attack("weight matching", _one(weight_matching.steal), weight_matching.obstacle, uses_base=True, draws=False),
    Attack("public layers", public_layers.steal, grafts.obstacle, uses_base=True, draws=False, several=True),
    Attack(
        f"public layers with an adapter, {LEARNED_FROM[-1]} images",
        partial(adapter.steal, images=LEARNED_FROM[-1]),
        grafts.obstacle,
        uses_base=True,
        several=True,
    ),
)
