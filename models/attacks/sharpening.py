"""Sharpening: the answers' logits are multiplied by a factor before they are believed.

The plainest reply to a defence that flattens; it hopes that the disturbance only made the answers less confident.
"""

from torch import nn

from models.attacks.attacker import Attacker


def steal(attacker: Attacker, *, factor: float = 3.0, temperature: float = 4.0, alpha: float = 0.9) -> nn.Module:
    """Distillation of `factor` times the answers."""
    answers = attacker.oracle.query(attacker.images)
    return attacker.distil(factor * answers, answers, temperature=temperature, alpha=alpha)
