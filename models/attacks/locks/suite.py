"""Every attack that looks for a lock's key, or for what does without one, in the order of the report."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from models.attacks.locks import hill_climbing, linear_layer, random_search, sinkhorn, weight_matching
from models.attacks.locks.thief import Opened, Thief, confidence

LEARNED_FROM = (128, 1000)  # labelled images


@dataclass(frozen=True)
class Attack:
    """One attack; `obstacle` says why it cannot be tried on what a thief has, None if it can.

    With `uses_base`, it looks at the public backbone, and draws nothing.
    """

    name: str
    steal: Callable[[Thief], Opened]
    obstacle: Callable[[Thief], str | None] = lambda _: None
    uses_base: bool = False


ATTACKS: tuple[Attack, ...] = (
    Attack("random search", random_search.steal),
    Attack("hill climbing", hill_climbing.steal),
    Attack("hill climbing on the loss", partial(hill_climbing.steal, score=confidence)),
    *(Attack(f"linear layer, {n} images", partial(linear_layer.steal, images=n)) for n in LEARNED_FROM),
    *(Attack(f"soft key, {n} images", partial(sinkhorn.steal, images=n), sinkhorn.obstacle) for n in LEARNED_FROM),
    Attack("weight matching", weight_matching.steal, weight_matching.obstacle, uses_base=True),
)
