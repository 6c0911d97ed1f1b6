"""Every evasion with the parameters that are reported, in the order of the report."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from models.attacks.tracing import (
    class_means,
    fewer_labels,
    fine_tuning,
    label_mixing,
    plain,
    pruning,
    quantising,
    rounding,
    smoothing,
    top1,
)
from models.attacks.tracing.leak import Leak, Suspect


@dataclass(frozen=True)
class Evasion:
    """One way to hide which key was leaked, tried with the answers to so many `keys`."""

    name: str
    evade: Callable[[Leak], Suspect]
    keys: int = 1


EVASIONS: tuple[Evasion, ...] = (
    Evasion("plain", plain.evade),
    Evasion("T = 1, α = 0.5", partial(plain.evade, temperature=1, alpha=0.5)),
    Evasion("T = 8, α = 1", partial(plain.evade, temperature=8, alpha=1)),
    Evasion("10 % of the labels", fewer_labels.evade),
    Evasion("half true labels", label_mixing.evade),
    Evasion("smoothing 0.1", smoothing.evade),
    Evasion("class means", class_means.evade),
    Evasion("fine-tuning", fine_tuning.evade),
    Evasion("pruning 30 %", pruning.evade),
    Evasion("6-bit weights", quantising.evade),
    Evasion("two decimals", rounding.evade),
    Evasion("2 keys", plain.evade, keys=2),
    Evasion("3 keys", plain.evade, keys=3),
    Evasion("5 keys", plain.evade, keys=5),
    Evasion("top-1 only", top1.evade),
)
