"""Gradient descent through the stolen network: something before or within it is learned, the network stays as it is.

Knows Adam and labelled images; what can be learned is the attack's business. The authors' attacks go by answers
alone, though who has the weights has gradients too.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.attacks.locks.thief import Thief
from models.progress import followed
from models.views import random_views

BATCH = 64
LAST = 0.01  # of the learning rate is left in the last step


def descend(
    thief: Thief,
    learned: nn.Module,
    answers: Callable[[Tensor, float], Tensor],
    count: int,
    *,
    learning_rate: float,
    title: str,
) -> None:
    """Teach `learned` to make `answers` right about the first `count` images, seen in crops and mirrors.

    They are logits [B, K] of images [B, C, H, W] in [0, 1] and of the share in [0, 1) of the steps that lie behind.
    """
    images, labels = thief.held(count)
    generator = torch.Generator().manual_seed(thief.seed)
    optimizer = torch.optim.Adam(learned.parameters(), learning_rate)
    steps = thief.budget.steps
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, LAST, steps)
    for step in followed(range(steps), title):
        rows = torch.randint(len(images), (min(BATCH, len(images)),), generator=generator).to(images.device)
        shown = random_views(images[rows], generator)
        loss = F.cross_entropy(answers(shown, step / steps), labels[rows])
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
