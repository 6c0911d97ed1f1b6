"""The figures that the README shows are those of the committed measurements, and say which command makes them."""

import json
from statistics import median
from typing import Any

from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()
Json = dict[str, Any]


def read(path: str) -> Json:
    found: Json = json.loads((ROOT / path).read_text())
    return found


REPORT, SERVING = read("docs/reports/cifar10.json"), read("benchmarks/results/serving.json")
BUNDLE = read("models/zoo/cifar10/bundle.json")["metrics"]


def top1(tier: str) -> str:
    (found,) = (row["top1"] for row in REPORT["tiers"] if row["name"] == tier)
    return f"{100 * found:.2f}"


def student(group: str, name: str, holdings: str) -> str:
    """Mean top-1 and standard error, as percentages."""
    asked = (group, name, holdings, 1.0)
    (row,) = (row for row in REPORT["figures"] if (row["group"], row["name"], row["holdings"], row["share"]) == asked)
    return f"{row['test_top1']:.1f} ± {row['standard_error']:.1f}"


def serving(server: str, load: str, figure: str) -> float:
    """The median over the rounds."""
    asked = (server, "small", load)
    (row,) = (row for row in SERVING["rows"] if (row["server"], row["workload"], row["load"]) == asked)
    return float(median(row[figure]))


def lines() -> list[str]:
    """The rows of the table, as they must stand there."""
    servers = ("ours/one pass", "ours/two processes", "litserve", "fastapi_batch")
    speed = [f"{serving(server, '32', 'per_second'):.0f}" for server in servers]
    latency = [f"{serving(server, '1', 'p50_ms'):.1f}" for server in servers]
    floor = student("attack", "hard labels", "unlabelled")
    naive = student("attack", "soft labels, T = 4, α = 1", "unlabelled")
    holder = student("key holder", "key, one label, α = 1", "unlabelled")
    teacher = student("reference", "bare teacher, one label, α = 1", "unlabelled")
    alone = ", ".join(f"{100 * BUNDLE[name]:.2f}" for name in ("test_top1_teacher_one_pass", "test_top1_teacher"))
    return [
        f"| {top1('public')}, {top1('authorised')}; {alone} % | `make report` |",
        f"| {naive} against {floor} % | `make report` |",
        f"| {student('attack', 'class means', 'unlabelled')} % (class means) | `make report` |",
        f"| {holder} against {teacher} % | `make report` |",
        f"| {', '.join(speed[:2])}; {', '.join(speed[2:])} | `make bench` |",
        f"| {', '.join(latency[:2])}; {', '.join(latency[2:])} ms | `make bench` |",
    ]


def test_the_figures_of_the_readme_are_the_committed_ones() -> None:
    table = README.partition("## In figures")[2].partition("\n± ")[0]
    rows = [line for line in table.splitlines() if line.startswith("|")][2:]
    expected = lines()
    assert len(rows) == len(expected)
    for row, end in zip(rows, expected, strict=True):
        assert row.endswith(end), f"{row}\nshould end with\n{end}"


def test_the_attack_that_the_readme_names_is_the_best_of_those_that_read_the_logits() -> None:
    labels_only = ("hard labels", "augmentations, votes")
    reading = [
        row
        for row in REPORT["figures"]
        if row["group"] == "attack" and row["share"] == 1.0 and not row["name"].startswith(labels_only)
    ]
    best = max((row for row in reading if row["holdings"] == "unlabelled"), key=lambda row: row["test_top1"])
    assert best["name"] == "class means"


def test_no_server_of_the_comparison_answered_with_an_error() -> None:
    assert SERVING["about"]["errors"] == 0
