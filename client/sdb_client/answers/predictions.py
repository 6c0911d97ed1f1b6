"""What the server says of images. Plain data; knows no request."""

from dataclasses import dataclass

from sdb_client.views import View


@dataclass(frozen=True)
class Score:
    """One class, and its probability."""

    label: str
    index: int
    score: float


@dataclass(frozen=True)
class SoftLabel:
    """The answer for one view: how it was made (`sdb_client.views.seen` shows it), and a number for each class."""

    view: View
    logits: tuple[float, ...]
    probabilities: tuple[float, ...]


@dataclass(frozen=True)
class Prediction:
    """The answer for one image: the class that the model takes it for, and a number for each class.

    `top` lists the most probable classes. `views`, the image itself first, is there when more than one was asked for.
    """

    label: str
    index: int
    score: float
    top: tuple[Score, ...]
    logits: tuple[float, ...]
    probabilities: tuple[float, ...]
    views: tuple[SoftLabel, ...] | None = None


@dataclass(frozen=True)
class BudgetLeft:
    """What the key has left after an answer that was charged; None is unlimited."""

    limit: int | None
    remaining: int | None


@dataclass(frozen=True)
class Predictions:
    """The answer for the images of a request, in their order.

    `tier` says what the numbers are: "public" (the right label, disturbed scores) or "distill" (soft labels to learn
    from). `budget` comes with charged answers.
    """

    model: str
    version: str
    tier: str
    request_id: str
    predictions: tuple[Prediction, ...]
    budget: BudgetLeft | None = None
