"""No evasion: a student distilled at some temperature and some share of the soft labels, which the owner is not told.

With several keys, from the mean of what they were told: the collusion that keeps the knowledge and thins each mark.
"""

from models.attacks.tracing.leak import Leak, Suspect


def evade(leak: Leak, *, temperature: float = 4.0, alpha: float = 0.9) -> Suspect:
    """α parts soft labels at `temperature`, 1−α parts true labels."""
    return leak.suspect(leak.honest(temperature=temperature, alpha=alpha))
