"""Distillation that takes the answers at their word (Hinton et al. 2015; the student of SDB's `train_kd.py`)."""

from torch import nn

from models.attacks.attacker import Attacker


def steal(attacker: Attacker, *, temperature: float, alpha: float) -> nn.Module:
    """α parts soft labels at `temperature`, 1−α parts true labels or, without them, the answers' top-1."""
    answers = attacker.oracle.query(attacker.images)
    return attacker.distil(answers, answers, temperature=temperature, alpha=alpha)
