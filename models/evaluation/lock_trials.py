"""What is tried on a locked model: no key, wrong keys, nearly right ones, and every attack of the suite.

Knows the right key, to get it nearly right; no attack is shown it. How a trial is read is `locks`' business.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial

from sdb_client.transforms import Transform

from models.attacks.locks import suite
from models.attacks.locks.keys import near_key, random_key
from models.attacks.locks.thief import Budget, Opened, Thief, as_it_is
from models.evaluation.locked import Locked
from models.training.negatives import entries

REFERENCE, WRONG, NEAR, ATTACK = "reference", "wrong key", "near miss", "attack"
NEAR_KEYS = 3  # drawn for each number of wrong entries


@dataclass(frozen=True)
class Effort:
    """How hard it is tried: random wrong keys, test images that each of many keys is tried on, and a thief's budget."""

    wrong_keys: int = 100
    images: int = 1000
    budget: Budget = field(default_factory=Budget)


@dataclass(frozen=True)
class Trial:
    """One thing that is tried: fronts for the network, found by a thief or given.

    `depends` names what decides the result beside model, images and seed; without `drawn` the seed changes nothing.
    `keys` are as many as it finds, `images` the test images that each is read on, None for all. A near miss says of
    which `step` how many entries are `wrong`.
    """

    kind: str
    name: str
    found: Callable[[Thief], Iterable[Opened]]
    depends: Mapping[str, object] = field(default_factory=dict)
    drawn: bool = True
    keys: int = 1
    images: int | None = None
    step: str = ""
    wrong: int = 0


def trials(locked: Locked, effort: Effort, thief: Thief) -> Iterator[Trial]:
    """All that `thief` can try, in the order of the report."""
    yield Trial(REFERENCE, "the right key", lambda thief: [_with(thief, locked.right)], drawn=False)
    yield Trial(WRONG, "no key", lambda _: [Opened(as_it_is)], drawn=False)
    yield from _wrong_keys(locked, effort)
    yield from _near_misses(locked, effort)
    for attack in suite.ATTACKS:
        if attack.obstacle(thief) is None:
            yield _attack(attack, locked, effort)


def obstacles(thief: Thief) -> list[str]:
    """The attacks that `thief` cannot try, and why."""
    reasons = {attack.name: attack.obstacle(thief) for attack in suite.ATTACKS}
    return [f"{name} on the lock: {reason}" for name, reason in reasons.items() if reason is not None]


def _wrong_keys(locked: Locked, effort: Effort) -> Iterator[Trial]:
    depends = {"keys": effort.wrong_keys, "images": effort.images}

    def random(thief: Thief) -> Iterator[Opened]:
        draw = thief.draw()
        return (_with(thief, random_key(locked.scheme, draw)) for _ in range(effort.wrong_keys))

    def others(thief: Thief) -> Iterator[Opened]:
        return (_with(thief, locked.other(number)) for number in range(effort.wrong_keys))

    yield Trial(WRONG, "random keys", random, depends, keys=effort.wrong_keys, images=effort.images)
    yield Trial(
        WRONG,
        "keys of other clients and models",
        others,
        depends,
        drawn=False,
        keys=effort.wrong_keys,
        images=effort.images,
    )


def _near_misses(locked: Locked, effort: Effort) -> Iterator[Trial]:
    def near(step: str, wrong: int, thief: Thief) -> Iterator[Opened]:
        draw = thief.draw()
        for _ in range(NEAR_KEYS):
            yield _with(thief, near_key(locked.right, locked.scheme, step, wrong, draw))

    for step in locked.right.steps:
        for wrong in _doubling(entries(step, locked.scheme.blocks).shape[-1]):
            name, found = f"{step.name}, {wrong} entries wrong", partial(near, step.name, wrong)
            depends = {"keys": NEAR_KEYS, "images": effort.images}
            yield Trial(NEAR, name, found, depends, keys=NEAR_KEYS, images=effort.images, step=step.name, wrong=wrong)


def _doubling(most: int) -> list[int]:
    """2, 4, 8, … and `most`."""
    return [2**power for power in range(1, most.bit_length()) if 2**power < most] + [most]


def _attack(attack: suite.Attack, locked: Locked, effort: Effort) -> Trial:
    depends = {
        **({"base": locked.base_identity} if attack.uses_base else {}),
        **(asdict(effort.budget) if attack.draws else {}),
        **({"images": effort.images} if attack.several else {}),
    }
    images = effort.images if attack.several else None
    return Trial(ATTACK, attack.name, attack.steal, depends, drawn=attack.draws, images=images)


def _with(thief: Thief, key: Transform) -> Opened:
    return Opened(thief.front(key), key)
