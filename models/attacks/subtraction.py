"""Subtraction: a network learns the false entries from the image alone; what it cannot explain is taken for the truth.

Made for a disturbance that is a smooth function of the image. Hopes that this function is easier to learn than the
teacher's dark knowledge, so that the residual is mostly the latter.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from models.attacks.attacker import Attacker, Trainer
from models.training.loop import Batch


def steal(attacker: Attacker) -> nn.Module:
    """Distillation of the residuals of a network like the student, trained as long as the student."""
    answers = attacker.oracle.query(attacker.images)
    predicted = explained(attacker.trainer, attacker.images, answers)
    return attacker.distil(recover(answers, predicted), answers)


def recover(answers: Tensor, predicted: Tensor) -> Tensor:
    """Answers [N, K] less the prediction [N, K] of their entries beside the top-1, which keeps its lead: logits."""
    lead = -answers.topk(2, dim=1).values.diff(dim=1)
    others = ~_top(answers)
    residual = _centred(answers, others) - _centred(predicted, others)
    best = residual.masked_fill(~others, -float("inf")).amax(1, keepdim=True)
    return residual.where(others, best + lead)


def explained(trainer: Trainer, images: Tensor, answers: Tensor) -> Tensor:
    """What a network trained on images as they are says of the entries of `answers` beside the top-1: [N, K]."""
    others = ~_top(answers)
    wanted = _centred(answers, others)
    scale = wanted[others].std().clamp_min(1e-6)  # one learning rate for all teachers

    def step(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        guess = model(batch.images)
        shown, target = others[batch.rows].to(guess.device), wanted[batch.rows].to(guess.device) / scale
        return {"mse": F.mse_loss(guess * shown, target)}

    return trainer.predict(trainer.fit(images, answers.argmax(1), step, stage="disturbance"), images) * scale


def _top(logits: Tensor) -> Tensor:
    return F.one_hot(logits.argmax(1), logits.shape[1]).bool()


def _centred(logits: Tensor, others: Tensor) -> Tensor:
    """The entries in the mask `others` [N, K], less their mean; 0 elsewhere."""
    kept = logits * others
    return (kept - kept.sum(1, keepdim=True) / others.sum(1, keepdim=True)) * others
