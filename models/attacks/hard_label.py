"""The floor: the top-1 and nothing else, with or without label smoothing. No answer that is right can prevent it."""

from torch import nn

from models.attacks.attacker import Attacker


def steal(attacker: Attacker, *, smoothing: float = 0.0) -> nn.Module:
    """Cross-entropy with the answers' top-1, of which `smoothing` is spread over all classes."""
    answers = attacker.oracle.query(attacker.images)
    return attacker.trainer.distil(
        attacker.images, answers.argmax(1), answers, temperature=1, alpha=0, smoothing=smoothing
    )
