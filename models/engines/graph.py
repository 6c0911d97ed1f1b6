"""A box as an ONNX graph for other runtimes: its weights inside, what follows from its secret as arguments.

Knows torch's exporter. The graph holds what the bundle does, the keyed normalisation folded into the weights, so it may
lie on disk as that does there: sealed. κ, the release stage's projection and the lock's tables stay in memory and go in
with each batch.
"""

import logging
import warnings
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.data import Pixels
from models.engines.engine import Answering, Rights

ROWS = ("pixels", "keyed", "unlocked")
TALKATIVE = ("onnxscript", "onnx_ir")  # they report each node at the level of a server's start
EXAMPLES = 2  # rows that the exporter is shown; 1 would be taken for a constant


class _Exposed(nn.Module):
    """`answering` with its secret buffers as arguments, so that none becomes a constant."""

    def __init__(self, answering: Answering) -> None:
        super().__init__()
        self.answering, self._names = answering, tuple(answering.secrets)

    def forward(self, pixels: Tensor, keyed: Tensor, unlocked: Tensor | None, *secrets: Tensor) -> Tensor:
        """As `Answering`."""
        buffers = dict(zip(self._names, secrets, strict=True))
        logits: Tensor = torch.func.functional_call(self.answering, buffers, (pixels, keyed, unlocked))
        return logits


def export(answering: Answering, height: int, width: int) -> bytes:
    """The graph of a box on the CPU for images of one size and batches of any.

    Raises:
        Exception: whatever torch's exporter has against the network.
    """
    secrets = answering.secrets
    locked = answering.box.lock is not None
    batch = {0: torch.export.Dim("batch")}
    pixels = torch.zeros(EXAMPLES, height, width, 3, dtype=torch.uint8)
    # Two tensors, not one twice: the exporter would take the rights for each other.
    keyed, unlocked = (torch.zeros(EXAMPLES, dtype=torch.bool) for _ in range(2))
    for library in TALKATIVE:
        logging.getLogger(library).setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's advice to itself
        program = torch.onnx.export(
            _Exposed(answering).eval(),
            (pixels, keyed, unlocked if locked else None, *secrets.values()),
            input_names=[*(ROWS if locked else ROWS[:2]), *secrets],
            output_names=["logits"],
            dynamic_shapes=(batch, batch, batch if locked else None, ({},) * len(secrets)),
            dynamo=True,
            verbose=False,
        )
    assert program is not None  # noqa: S101 - it is for the exporter of old
    content: bytes = program.model_proto.SerializeToString()
    return content


class Feed:
    """What goes into a graph by name: the rows of a batch, and the secrets that the graph asks for."""

    def __init__(self, answering: Answering, inputs: Iterable[str]) -> None:
        wanted = set(inputs)
        self._rows = tuple(name in wanted for name in ROWS)
        self._secrets: dict[str, NDArray[np.generic]] = {
            name: buffer.contiguous().numpy() for name, buffer in answering.secrets.items() if name in wanted
        }

    def __call__(self, pixels: Pixels, keyed: Rights, unlocked: Rights) -> dict[str, NDArray[np.generic]]:
        """The inputs of one batch."""
        given = zip(ROWS, self._rows, (pixels, keyed, unlocked), strict=True)
        return {name: np.ascontiguousarray(array) for name, wanted, array in given if wanted} | self._secrets
