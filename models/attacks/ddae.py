"""D-DAE (S&P 2023) as re-implemented for ModelGuard: a small network learns to turn answers into clean vectors.

Hopes that the disturbance can be undone by any smooth function of the answer. The shadow models or Dirichlet samples
of the published attack, which need a copy of the defence, are the attacker's pairs here; the network is also told the
top-1, which the defence keeps true.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.attacks.attacker import Attacker

STEPS = 2000
BATCH = 512


def steal(attacker: Attacker) -> nn.Module:
    """Distillation of generated answers."""
    known, answers = attacker.known(), attacker.oracle.query(attacker.images)
    return attacker.distil(recover(answers, known, attacker.trainer.recipe.seed), answers)


def recover(answers: Tensor, clean: Tensor, seed: int) -> Tensor:
    """Log-probabilities [N, K] for answers [N, K], the first M of which belong to `clean` [M, K]."""
    inputs = torch.cat([answers.softmax(1), F.one_hot(answers.argmax(1), answers.shape[1]).float()], dim=1)
    torch.manual_seed(seed)
    generator = _trained(inputs[: len(clean)], clean.softmax(1)).eval()
    with torch.inference_mode():
        logits: Tensor = generator(inputs)
    return logits.log_softmax(1).clone()


def _trained(inputs: Tensor, wanted: Tensor) -> nn.Module:
    """The published network and loss: L1 between probabilities."""
    network = nn.Sequential(
        *(nn.Linear(inputs.shape[1], 128), nn.BatchNorm1d(128), nn.LeakyReLU(0.2)),
        *(nn.Linear(128, 64), nn.BatchNorm1d(64), nn.LeakyReLU(0.2)),
        nn.Linear(64, wanted.shape[1]),
    )
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        rows = torch.randperm(len(inputs))[:BATCH]
        loss = F.l1_loss(network(inputs[rows]).softmax(1), wanted[rows], reduction="sum") / len(rows)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        decay.step()
    return network
