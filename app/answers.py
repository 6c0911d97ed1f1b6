"""What a request is answered, before any protocol has its say: numbers for every row, and the native JSON of them.

Knows arrays and what the bundle says of them; knows no caller and no HTTP.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.hosting import Logits
from keys.records import Budget, Standing
from models.bundles import Manifest
from models.views import View


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
    """Softmax of logits [N, K] at a temperature, computed in float64."""
    scaled = logits.astype(np.float64) / temperature
    exponent = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    probabilities: NDArray[np.float32] = (exponent / exponent.sum(axis=1, keepdims=True)).astype(np.float32)
    return probabilities


def as_json(answer: Answer, top_k: int) -> dict[str, Any]:
    """The body of a native answer, lacking only the request's id."""
    body: dict[str, Any] = {
        "model": answer.manifest.name,
        "version": answer.manifest.version,
        "tier": answer.tier,
        "predictions": list(_by_image(answer, _rows(answer, top_k))),
    }
    if answer.charged and answer.budget is not None:
        body["budget"] = {"remaining": answer.budget.remaining, "limit": answer.budget.limit}
    return body


def _rows(answer: Answer, top_k: int) -> Iterator[dict[str, Any]]:
    """One answer per row."""
    classes, probabilities = answer.manifest.classes, answer.probabilities
    order = np.argsort(-answer.logits, axis=1, kind="stable")[:, :top_k]
    for row, indices in enumerate(order):
        top = [{"label": classes[index], "index": int(index), "score": probabilities[row, index]} for index in indices]
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
