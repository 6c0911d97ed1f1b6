"""What the server says of images in the Open Inference Protocol, as arrays. Knows no request."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Inference:
    """The answer for N images of a model with K classes; arrays are read-only.

    `tier` says what the numbers are: "public" (the right label, disturbed scores) or "distill" (soft labels to learn
    from). `budget_remaining` comes with charged answers of a key whose budget has a limit. `outputs` holds what was
    asked for, under its name.
    """

    model: str
    version: str
    tier: str
    budget_remaining: int | None
    request_id: str | None
    outputs: Mapping[str, NDArray[Any]]

    @property
    def logits(self) -> NDArray[np.float32] | NDArray[np.float16]:
        """[N, K]."""
        return self.outputs["logits"]

    @property
    def probabilities(self) -> NDArray[np.float32] | NDArray[np.float16]:
        """[N, K], at the temperature that was asked for, or the model's."""
        return self.outputs["probabilities"]

    @property
    def index(self) -> NDArray[np.int64]:
        """[N], the number of the class that each image is taken for."""
        return self.outputs["index"]

    @property
    def label(self) -> NDArray[np.str_]:
        """[N], the name of the class that each image is taken for."""
        return self.outputs["label"]
