"""Many views of every image: the answers to random crops and mirror images are averaged, or their top-1s counted.

Hopes that the disturbance changes with the view while the truth does not. The count harvests soft labels from top-1s
alone, which no defence that keeps them can falsify.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.attacks.attacker import Attacker, as_logits
from models.training.loop import PREDICTION_BATCH
from models.views import random_views


def steal(attacker: Attacker, *, views: int = 4, votes: bool = False) -> nn.Module:
    """Distillation of what `views` views of each image say together, of their top-1s only with `votes`."""
    generator = torch.Generator().manual_seed(attacker.trainer.recipe.seed)
    answers = torch.stack([attacker.oracle.query(view(attacker.images, generator)) for _ in range(views)])
    soft = counted(answers) if votes else averaged(answers)
    return attacker.distil(soft, soft, temperature=1 if votes else 4)


def view(images: Tensor, generator: torch.Generator) -> Tensor:
    """One random view of each image uint8 [N, 3, H, W], of the same pixels: they pass through floats unchanged."""
    chunks = torch.split(images, PREDICTION_BATCH)
    return torch.cat([random_views(chunk.float(), generator).to(torch.uint8) for chunk in chunks])


def averaged(answers: Tensor) -> Tensor:
    """The mean distribution of logits [V, N, K]: log-probabilities [N, K]."""
    return as_logits(answers.softmax(2).mean(0))


def counted(answers: Tensor) -> Tensor:
    """The histogram of the top-1s of logits [V, N, K], with one further vote spread over all classes: [N, K]."""
    views, _, classes = answers.shape
    votes = F.one_hot(answers.argmax(2), classes).sum(0)
    return ((votes + 1 / classes) / (views + 1)).log()
