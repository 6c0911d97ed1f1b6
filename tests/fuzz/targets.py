"""The parsers of what strangers send, by name: each module has `feed`, which states a law, and `SEEDS`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module

NAMES = ("images", "oip_requests", "envelopes", "tokens", "api_keys", "encodings", "manifests")


@dataclass(frozen=True)
class Target:
    """A parser under test: `feed` fails if the parser breaks its law for some bytes."""

    name: str
    feed: Callable[[bytes], None]
    seeds: Sequence[bytes]


def target(name: str) -> Target:
    """The target of this name; importing it imports the parser."""
    module = import_module(f"tests.fuzz.fuzz_{name}")
    return Target(name, module.feed, module.SEEDS)
