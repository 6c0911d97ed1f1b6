"""Every attack with the parameters that are reported, in the order of the report."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import nn

from models.attacks import (
    augmentations,
    class_means,
    copycat,
    ddae,
    flattening,
    hard_label,
    high_temperature,
    knockoff,
    markov,
    mixing,
    partial_bayes,
    repeats,
    ridge,
    sharpening,
    skeptical,
    soft_labels,
    subtraction,
    top_k,
)
from models.attacks.attacker import Attacker


@dataclass(frozen=True)
class Attack:
    """One attack: `uses_labels`, true labels change its result; `uses_clean`, it needs the attacker's clean logits.

    Without `reads_vector`, it looks at the top-1 alone and would learn the same from an answer that holds nothing else.
    With `asks_again`, it wants to know whether the same image is answered alike, so no answer may be remembered for it.
    """

    name: str
    steal: Callable[[Attacker], nn.Module]
    uses_labels: bool = True
    uses_clean: bool = False
    reads_vector: bool = True
    asks_again: bool = False


def _soft(temperature: float, alpha: float) -> Attack:
    steal = partial(soft_labels.steal, temperature=temperature, alpha=alpha)
    return Attack(f"soft labels, T = {temperature:g}, α = {alpha:g}", steal, uses_labels=alpha < 1)


ATTACKS: tuple[Attack, ...] = (
    *(_soft(temperature, alpha) for temperature in (1, 4, 20) for alpha in (0.1, 0.5, 0.9, 1.0)),
    Attack("hard labels", hard_label.steal, uses_labels=False, reads_vector=False),
    Attack(
        "hard labels, smoothing 0.1", partial(hard_label.steal, smoothing=0.1), uses_labels=False, reads_vector=False
    ),
    Attack("hard labels, softened", hard_label.soften, reads_vector=False),
    Attack("sharpening", sharpening.steal),
    Attack("class means", class_means.steal),
    Attack("skeptical student", skeptical.steal),
    Attack("high temperatures", high_temperature.steal),
    Attack("Markov distillation", markov.steal),
    Attack("ridge regression", ridge.steal, uses_clean=True),
    Attack("partial Bayes", partial_bayes.steal, uses_clean=True),
    Attack("D-DAE", ddae.steal, uses_clean=True),
    Attack("mixing with labels", mixing.steal),
    Attack("augmentations", augmentations.steal),
    Attack("augmentations, votes", partial(augmentations.steal, votes=True), reads_vector=False),
    Attack("repeats", repeats.steal, asks_again=True),
    Attack("top-k", top_k.steal),
    Attack("flattening", flattening.steal),
    Attack("subtraction", subtraction.steal),
    Attack("KnockoffNets, vectors", partial(knockoff.steal, use_probability=True), uses_labels=False),
    Attack(
        "KnockoffNets, top-1", partial(knockoff.steal, use_probability=False), uses_labels=False, reads_vector=False
    ),
    Attack("CopycatCNN, vectors", partial(copycat.steal, use_probability=True), uses_labels=False),
    Attack("CopycatCNN, top-1", partial(copycat.steal, use_probability=False), uses_labels=False, reads_vector=False),
)
