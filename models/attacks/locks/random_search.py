"""Random keys, the best of which is kept (AprilPyone and Kiya's code, `adaptive_attacks.py`).

Knows one labelled batch and what the network says of it.
"""

from models.attacks.locks.keys import random_key
from models.attacks.locks.thief import Opened, Thief, accuracy
from models.progress import followed


def steal(thief: Thief) -> Opened:
    """The most accurate of as many random keys as the budget has, the first of several."""
    judge, draw = thief.judge(*thief.held(thief.budget.batch), accuracy), thief.draw()
    best, highest = random_key(thief.scheme, draw), -1.0
    for start in followed(range(0, thief.budget.keys, judge.together), "random search"):
        count = min(judge.together, thief.budget.keys - start)
        keys = [random_key(thief.scheme, draw) for _ in range(count)]
        scores = judge(keys)
        if max(scores) > highest:
            highest = max(scores)
            best = keys[scores.index(highest)]
    return Opened(thief.front(best), best)
