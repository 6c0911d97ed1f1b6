"""The floor: the top-1 and nothing else. No answer that is right can prevent it.

Three ways to learn from it: as it is, with label smoothing, and softened, that is distilled at a temperature as if a
teacher had said it. The last is the control of every attack that distils: what it gains over plain hard labels needs no
vector.
"""

from torch import nn
from torch.nn import functional as F

from models.attacks.attacker import Attacker


def steal(attacker: Attacker, *, smoothing: float = 0.0) -> nn.Module:
    """Cross-entropy with the answers' top-1, of which `smoothing` is spread over all classes."""
    answers = attacker.oracle.query(attacker.images)
    return attacker.trainer.distil(
        attacker.images, answers.argmax(1), answers, temperature=1, alpha=0, smoothing=smoothing
    )


def soften(attacker: Attacker, *, lead: float = 3.0) -> nn.Module:
    """Distillation at T = 4 of logits that know the top-1 alone: `lead` for it, 0 for all others."""
    top1 = attacker.oracle.query(attacker.images)
    softened = lead * F.one_hot(top1.argmax(1), top1.shape[1]).float()
    return attacker.distil(softened, softened)
