"""What the server says of its models. Plain data; knows no request."""

from dataclasses import dataclass


@dataclass(frozen=True)
class InputSize:
    """Pixels of the network's input; images of other sizes are resized and centre-cropped."""

    height: int
    width: int


@dataclass(frozen=True)
class ModelCard:
    """A hosted model: its classes in the order of the logits, and the tiers that this caller has of it."""

    name: str
    version: str
    classes: tuple[str, ...]
    input: InputSize
    guard: tuple[str, ...]
    tiers: tuple[str, ...]


@dataclass(frozen=True)
class ModelCards:
    """All hosted models."""

    models: tuple[ModelCard, ...]
