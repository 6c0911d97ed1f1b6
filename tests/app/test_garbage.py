"""A server does not look through what it is built of for garbage, and still finds the garbage that it makes."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from app.garbage import spare_what_is_built

BUILT = 200_000


class Part:
    """Refers to another part."""

    other: "Part"


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    threshold = gc.get_threshold()
    yield
    gc.set_threshold(*threshold)


def ring() -> Part:
    one, two = Part(), Part()
    one.other, two.other = two, one
    return one


def test_what_is_built_is_not_looked_through_again() -> None:
    built = [ring() for _ in range(BUILT // 2)]
    spare_what_is_built()
    assert len(gc.get_objects()) < BUILT, "what the collector still looks through"
    assert len(built) == BUILT // 2


def test_what_is_made_later_and_forgotten_is_found_without_being_asked_for() -> None:
    spare_what_is_built()
    lost = weakref.ref(ring())
    kept = [ring() for _ in range(BUILT // 2)]
    assert lost() is None
    assert len(kept) == BUILT // 2
