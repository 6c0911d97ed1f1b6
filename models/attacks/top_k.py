"""Top-k: only the largest entries of an answer are believed.

Hopes that the disturbance lives in the tail, or that the runners-up are true.
"""

from torch import Tensor, nn

from models.attacks.attacker import Attacker

DEPTH = 40.0  # so far below the smallest entry kept that nothing is left of the rest even at T = 4


def steal(attacker: Attacker, *, keep: int = 3) -> nn.Module:
    """Distillation of the `keep` largest entries."""
    answers = attacker.oracle.query(attacker.images)
    return attacker.distil(recover(answers, keep), answers)


def recover(answers: Tensor, keep: int) -> Tensor:
    """Logits [N, K] whose `keep` largest entries are those of `answers` [N, K]; the others are far below them."""
    least = answers.topk(min(keep, answers.shape[1]), dim=1).values[:, -1:]
    return answers.where(answers >= least, least - DEPTH)
