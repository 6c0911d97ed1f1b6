"""The suspect's owner lets out rounded probabilities only."""

from models.attacks.tracing.leak import Leak, Suspect


def evade(leak: Leak, *, decimals: int = 2) -> Suspect:
    """Distillation, and answers of so many decimals."""
    exact = leak.suspect(leak.honest())
    return lambda images: exact(images).round(decimals=decimals)
