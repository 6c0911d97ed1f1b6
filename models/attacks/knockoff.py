"""KnockoffNets (Orekondy et al., CVPR 2019), random strategy, by the Adversarial Robustness Toolbox.

Cross-entropy with the answers of natural images: hopes that the vector, or at least its top-1, is right.
"""

from torch import nn

from models.attacks.attacker import Attacker
from models.attacks.toolbox import KnockoffNets, extract


def steal(attacker: Attacker, *, use_probability: bool) -> nn.Module:
    """A student of the answers' probabilities, or of their top-1 as ART has it by default."""
    return extract(attacker, KnockoffNets, use_probability=use_probability)
