"""What a request is answered, before any protocol has its say: numbers for every row, and the native JSON of them.

Knows arrays and what the bundle says of them; knows no caller and no HTTP.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from keys.records import Budget, Standing
from models.bundles import Manifest
from models.engines.engine import Logits
from models.views import View

SORTED = 256  # of fewer classes all are sorted, for all rows at once


@dataclass(frozen=True)
class Answer:
    """Logits and probabilities, float32 [N, K], of every view of every image; and how the caller's limits stand.

    `views` lists those of each image, the image itself first. `budget` is the key's, if the caller has presented one;
    `charged`: a privilege was used.
    """

    manifest: Manifest
    keyed: bool
    logits: Logits
    probabilities: NDArray[np.float32]
    views: Sequence[Sequence[View]]
    budget: Budget | None
    charged: bool
    standings: tuple[Standing, ...]

    @property
    def tier(self) -> str:
        """What the caller may see."""
        return "distill" if self.keyed else "public"


def probabilities_of(logits: Logits, temperature: float) -> NDArray[np.float32]:
    """Softmax of logits float32 [N, K] at a temperature.

    What is divided is the distance to the greatest logit, so float32 is within 10⁻⁵ of each probability, relatively,
    however low the temperature: where the distance is large, the probability is next to nothing.
    """
    scaled = logits - np.maximum.reduce(logits, axis=1, keepdims=True)  # as `max`, without its wrappers
    scaled /= np.float32(temperature)
    probabilities: NDArray[np.float32] = np.exp(scaled, out=scaled)
    probabilities /= np.add.reduce(probabilities, axis=1, keepdims=True)
    return probabilities


def greatest(scores: NDArray[np.float32], count: int) -> Iterable[NDArray[np.intp]]:
    """For each row of scores [N, K], the places of the greatest ones, descending; of equals the first comes first."""
    classes = scores.shape[1]
    if classes < SORTED or count >= classes:
        return (-scores).argsort(axis=1, kind="stable")[:, :count]
    return (_greatest(row, count) for row in scores)


def _greatest(row: NDArray[np.float32], count: int) -> NDArray[np.intp]:
    """Sorts no more than what can be among them."""
    candidates = np.flatnonzero(row >= np.partition(row, len(row) - count)[len(row) - count])
    return candidates[np.argsort(-row[candidates], kind="stable")][:count]


def as_json(answer: Answer, top_k: int, request_id: str) -> Iterator[bytes]:
    """The body of a native answer, in parts: what is there before, between and after its predictions, and each of them.

    Floats are written as the shortest decimals that float32 reads as the same number.
    """
    head = {"model": answer.manifest.name, "version": answer.manifest.version, "tier": answer.tier}
    yield orjson.dumps(head)[:-1] + b',"predictions":['
    separator = b""
    for prediction in _by_image(answer, _rows(answer, top_k)):
        yield separator + orjson.dumps(prediction, option=orjson.OPT_SERIALIZE_NUMPY)
        separator = b","
    tail: dict[str, Any] = {"request_id": request_id}
    if answer.charged and answer.budget is not None:
        tail["budget"] = {"remaining": answer.budget.remaining, "limit": answer.budget.limit}
    yield b"]," + orjson.dumps(tail)[1:]


def _rows(answer: Answer, top_k: int) -> Iterator[dict[str, Any]]:
    """One answer per row."""
    classes, probabilities = answer.manifest.classes, answer.probabilities
    for row, indices in enumerate(greatest(answer.logits, top_k)):
        best = zip(indices.tolist(), probabilities[row, indices], strict=True)
        top = [{"label": classes[index], "index": index, "score": score} for index, score in best]
        yield {**top[0], "top": top, "logits": answer.logits[row], "probabilities": probabilities[row]}


def _by_image(answer: Answer, rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """One answer per image: the image's own, and below it all of its views' if there are others."""
    for drawn in answer.views:
        of_views = [next(rows) for _ in drawn]
        if len(drawn) == 1:
            yield of_views[0]
            continue
        labels = [
            {"view": asdict(view), "logits": row["logits"], "probabilities": row["probabilities"]}
            for view, row in zip(drawn, of_views, strict=True)
        ]
        yield {**of_views[0], "views": labels}
