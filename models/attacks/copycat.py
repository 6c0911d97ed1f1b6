"""CopycatCNN (Correia-Silva et al., IJCNN 2018) by the Adversarial Robustness Toolbox.

In ART the same procedure as `knockoff`, and with the same seed the same student: a check of one by the other.
"""

from torch import nn

from models.attacks.attacker import Attacker
from models.attacks.toolbox import CopycatCNN, extract


def steal(attacker: Attacker, *, use_probability: bool) -> nn.Module:
    """A student of the answers' probabilities, or of their top-1 as ART has it by default."""
    return extract(attacker, CopycatCNN, use_probability=use_probability)
