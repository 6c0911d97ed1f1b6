"""Ridge regression from answers to clean logits, one per top-1, learned from the pairs that the attacker has.

Hopes that the disturbance is, for each top-1, close to an affine map that can be turned round.
"""

import torch
from torch import Tensor, nn

from models.attacks.attacker import Attacker


def steal(attacker: Attacker) -> nn.Module:
    """Distillation of decoded answers."""
    known, answers = attacker.known(), attacker.oracle.query(attacker.images)
    return attacker.distil(recover(answers, known), answers)


def recover(answers: Tensor, clean: Tensor, *, regularisation: float = 1e-2) -> Tensor:
    """Clean logits [N, K] as they follow from answers [N, K], the first M of which belong to `clean` [M, K].

    A top-1 with fewer than K+1 pairs is decoded by the regression over all pairs.
    """
    given, wanted = _centred(answers), _centred(clean)
    pairs, classes = clean.shape
    tops = answers.argmax(1)
    decoded = _decoded(given, given[:pairs], wanted, regularisation)
    for top in range(classes):
        asked, known = tops == top, tops[:pairs] == top
        if known.sum() > classes:
            decoded[asked] = _decoded(given[asked], given[:pairs][known], wanted[known], regularisation)
    return decoded.float()


def _centred(logits: Tensor) -> Tensor:
    """Free of the constant that softmax ignores; in double precision, as the normal equations want it."""
    return (logits - logits.mean(1, keepdim=True)).double()


def _decoded(asked: Tensor, given: Tensor, wanted: Tensor, regularisation: float) -> Tensor:
    """What the regression of `wanted` on `given`, with an intercept, says of `asked`."""
    origin, offset = given.mean(0), wanted.mean(0)
    inputs = given - origin
    penalty = regularisation * len(given) * torch.eye(given.shape[1], dtype=given.dtype)
    weights: Tensor = torch.linalg.solve(inputs.T @ inputs + penalty, inputs.T @ (wanted - offset))
    return (asked - origin) @ weights + offset
