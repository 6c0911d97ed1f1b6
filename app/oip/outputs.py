"""An answer as the tensors of the Open Inference Protocol: which of them are asked for, and how each is sent.

Knows answers and tensors; knows no image and no HTTP.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.answers import Answer, greatest
from app.errors import InvalidRequest
from app.oip.messages import InferRequest
from app.oip.tensors import Tensor

SCORES = ("logits", "probabilities")
OUTPUTS = {"label": "BYTES", "index": "INT64", **dict.fromkeys(SCORES, "FP32")}
GREATEST_HALF = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class Wanted:
    """An output that is asked for: as bytes or in JSON, in which datatype, or as its greatest `top` classes."""

    name: str
    datatype: str
    binary: bool
    top: int = 0


def wanted(request: InferRequest) -> list[Wanted]:
    """The outputs of the answer in their order, all of them if the request names none.

    Raises:
        InvalidRequest: it names one twice or one that there is not, or asks for what cannot be sent.
    """
    default, floats = request.parameters.binary_data_output, request.parameters.output_datatype
    datatypes = OUTPUTS | dict.fromkeys(SCORES, floats)
    if not request.outputs:
        return [_sendable(Wanted(name, datatype, default)) for name, datatype in datatypes.items()]
    names = [output.name for output in request.outputs]
    if not set(names) <= OUTPUTS.keys() or len(set(names)) < len(names):
        raise InvalidRequest(f"outputs are some of {', '.join(OUTPUTS)}, each once")
    found = []
    for output in request.outputs:
        asked = output.parameters
        binary = default if asked.binary_data is None else asked.binary_data
        datatype = "BYTES" if asked.classification else datatypes[output.name]
        found.append(_sendable(Wanted(output.name, datatype, binary, asked.classification)))
    return found


def _sendable(output: Wanted) -> Wanted:
    if output.top and output.name not in SCORES:
        raise InvalidRequest(f"`classification` is of {' or '.join(SCORES)}, not of {output.name}")
    if output.datatype == "FP16" and not output.binary:
        raise InvalidRequest("FP16 is sent as binary data only: JSON has no such number")
    return output


def tensors(answer: Answer, outputs: Sequence[Wanted]) -> list[tuple[Tensor, bool]]:
    """Each output as a tensor, and whether it is sent as bytes."""
    return [(_tensor(answer, output), output.binary) for output in outputs]


def _tensor(answer: Answer, output: Wanted) -> Tensor:
    classes = answer.manifest.classes
    if output.name not in SCORES:
        best = answer.logits.argmax(axis=1)
        values = [classes[index] for index in best] if output.name == "label" else best.astype(np.int64)
        return Tensor(output.name, output.datatype, best.shape, values)
    scores = answer.logits if output.name == "logits" else answer.probabilities
    if output.top:
        return _classification(output, scores, classes)
    if output.datatype == "FP16":
        scores = scores.clip(-GREATEST_HALF, GREATEST_HALF).astype(np.float16)
    return Tensor(output.name, output.datatype, scores.shape, scores)


def _classification(output: Wanted, scores: NDArray[np.float32], classes: Sequence[str]) -> Tensor:
    """The greatest scores of each row as `score:index:label`, as Triton's classification extension spells them."""
    texts = [
        f"{scores[row, index]!s}:{index}:{classes[index]}"
        for row, indices in enumerate(greatest(scores, output.top))
        for index in indices
    ]
    return Tensor(output.name, "BYTES", (len(scores), min(output.top, len(classes))), texts)
