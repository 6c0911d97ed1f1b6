"""Laws of timing in turns: everybody has a turn before anybody has a second, and the first ones do not count."""

from itertools import accumulate

from benchmarks.turns import in_turns, median_us, ratio


def test_parts_take_turns_of_which_the_first_do_not_count() -> None:
    said: list[str] = []
    ticks = iter(accumulate([0, 90, 0, 90, 0, 2, 0, 1, 0, 4, 0, 2]))  # seconds at the beginning and end of each call
    parts = {name: lambda name=name: said.append(name) for name in ("whole", "part")}
    times = in_turns(parts, 2, clock=lambda: next(ticks))
    assert said == ["whole", "part"] * 3
    assert times == {"whole": [2, 4], "part": [1, 2]}
    assert (ratio(times, "part", "whole"), median_us(times, "whole")) == (0.5, 3e6)
