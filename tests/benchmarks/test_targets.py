"""Laws of the figures: ratios are taken within rounds, and what was not measured is not judged."""

from benchmarks.serving.figures import Figures, ratio
from benchmarks.serving.targets import Target, targets


def figures(ours: list[float], **peers: list[float]) -> Figures:
    """Throughput of servers with the small model at 32 connections."""
    rows = [
        {"server": server, "workload": "small", "load": "32", "peer": True, "per_second": rounds}
        for server, rounds in peers.items()
    ]
    own = {"server": "ours/one pass", "workload": "small", "load": "32", "peer": False, "per_second": ours}
    return Figures({}, [own, *rows], [], [], [])


def measured(found: Figures, what: str) -> Target:
    """The target whose name begins so and ends with our server in one pass."""
    [target] = [t for t in targets(found) if t.what.startswith(what) and t.what.endswith("ours/one pass")]
    return target


def test_what_drifts_in_both_servers_drops_out_of_their_ratio() -> None:
    assert ratio([200, 100, 50], [100, 50, 25]) == 2


def test_the_best_peer_is_the_one_to_beat() -> None:
    found = figures(ours=[500, 500, 500], slow=[100, 100, 100], fast=[250, 200, 250])
    target = measured(found, "small model, 32 connections, throughput against the best peer:")
    assert target.measured == 2
    assert target.verdict == "missed"


def test_a_target_is_met_at_its_bound() -> None:
    assert Target("", 2.5, least=2.5).verdict == "met"
    assert Target("", 3.01, most=3).verdict == "missed"


def test_what_was_not_measured_is_neither_met_nor_missed() -> None:
    found = figures(ours=[500])
    assert measured(found, "small model, 32 connections, throughput against the best peer:").verdict == "not measured"
    assert {target.verdict for target in targets(found)} == {"not measured"}
