"""Laws of the protection report: all of the document is in it, escaped, and nothing of another host is."""

import re
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

import pytest
from markupsafe import escape

from models.evaluation.report import render
from models.evaluation.trace_report import probability

Document = dict[str, Any]
DOOR = "https://box.example/v1"
REFERENCES = ("alone", "alone, label smoothing", "bare teacher, one label, α = 0.9", "bare teacher, live views")
KEYS = ("key, one label, α = 0.9", "key, one label, α = 1", "key, 2 views", "key, 4 views", "key, 8 views")
ATTACKS = (
    "hard labels",
    "soft labels, T = 4, α = 1",
    "mixing with hard labels",
    "ridge decoder",
    "the $\\frac{1}{2} 日",
)
BUDGETED = (("attack", "hard labels"), ("attack", "ridge decoder"), ("reference", "bare teacher, one label, α = 1"))
DRAWN = ("tiers", "weights", "figures", "lock")
WRITTEN = ("model", "door", "made", "command", "environment", "setting", "verdicts", "rows", "left_out", "seconds")


def arm(group: str, name: str, holdings: str, *, student: str, at: float = 70, share: float = 1.0) -> Document:
    return {
        "group": group,
        "name": name,
        "holdings": holdings,
        "share": share,
        "student": student,
        "seeds": 3,
        "test_top1": at + 5 * share,
        "standard_error": 0.2 if student == "resnet8" else None,
        "validation_top1": 74.1,
        "queries": 0 if name.startswith("alone") else round(45_000 * share),
        "seconds": 41.5,
    }


def figures(student: str) -> Iterator[Document]:
    for group, names, holdings in (
        ("reference", REFERENCES, "labelled"),
        ("key holder", KEYS, "labelled"),
        ("thief", ("no key, α = 1",), "unlabelled"),
        ("attack", ATTACKS, "unlabelled"),
        ("attack", ATTACKS[1:3], "labelled"),
        ("attack", ATTACKS[:1], "out of distribution"),
    ):
        for place, name in enumerate(names):
            yield arm(group, name, holdings, student=student, at=70 + place)
    for group, name in BUDGETED:
        for share in (0.1, 0.5, 1.0):
            if (group, share) != ("attack", 1.0):
                yield arm(group, name, "unlabelled", student=student, share=share)


def verdict(promise: str, target: str, kept: bool, error: float | None = 0.11) -> Document:
    return {
        "student": "resnet8",
        "promise": promise,
        "target": target,
        "measured": -0.25,
        "standard_error": error,
        "detail": f"{promise}, in detail",
        "kept": kept,
    }


def tier(name: str, agreement: float | None) -> Document:
    return {
        "name": name,
        "top1": 0.951,
        "standard_error": 0.002,
        "nll": 0.2,
        "ece": 0.031,
        "mean_confidence": 0.97,
        "agreement": agreement,
        "l1": agreement,
        "ms_per_query": 1.25,
        "repeats_alike": True,
        "reliability": [{"confidence": c, "accuracy": c - 0.05, "share": 0.25} for c in (0.5, 0.7, 0.9, 0.98)],
    }


def reading(name: str, kl: float) -> Document:
    return {"name": name, "top1": 0.94, "kl": kl / 3, "kl_softened": kl}


def way_in(kind: str, name: str, at: float, *, keys: int = 1, step: str = "", wrong: int = 0) -> Document:
    return {
        "kind": kind,
        "name": name,
        "step": step,
        "wrong": wrong,
        "tried": keys,
        "mean": at - 2 * (keys > 1),
        "percentile_95": at - 1,
        "highest": at,
        "as_answered": at - 3,
        "recovered": {"shf": 0.0417, "np": 0.5} if kind == "attack" else None,
        "seconds": 61.2,
    }


def lock() -> Document:
    return {
        "steps": ["shf", "np"],
        "block": 4,
        "method": "trained",
        "effort": {
            "wrong_keys": 100,
            "images": 1000,
            "budget": {"keys": 20_000, "sweeps": 10, "steps": 500, "batch": 128},
        },
        "chance": 0.1,
        "plain": 0.95,
        "figures": [
            way_in("reference", "the right key", 94.0),
            way_in("wrong key", "no key", 12.0),
            way_in("wrong key", "random keys", 17.0, keys=300),
            *(
                way_in("near miss", f"{step}, {n} entries wrong", 90 - n, keys=9, step=step, wrong=n)
                for step in ("shf", "np")
                for n in (2, 4, 48)
            ),
            way_in("attack", "random search", 13.0, keys=3),
            way_in("attack", "soft <key>", 14.0, keys=3),
        ],
        "left_out": [],
        "seconds": 800.0,
    }


def whole() -> Document:
    return {
        "model": {"name": "cifar10", "version": "1", "architecture": "cifar_resnet20", "classes": 10},
        "door": DOOR,
        "made": "2026-01-01T00:00:00+00:00",
        "command": "sdb evaluate --seeds 0,1,2",
        "environment": {"CPU": "made up", "cores": 2},
        "setting": {"data": "made_up.parquet", "images": 45_000, "students": ["resnet8", "mobile"], "seeds": [0, 1, 2]},
        "verdicts": [verdict("no better", "≤ 0.5", True), verdict("far off", "≥ 5 ×", False, None)],
        "tiers": [tier("public", 0.9), tier("authorised", 0.99), tier("teacher", None)],
        "weights": {
            "teacher_top1": 0.952,
            "right": reading("the right key", 0.04),
            "right_of_part": reading("the right key", 0.05),
            "without": reading("no key", 1.1),
            "recalibrated": reading("no key, recalibrated", 0.6),
            "renormalised": reading("sought normalisation", 0.55),
            "wrong": [reading(f"key {n}", 0.8 + n / 100) for n in range(30)],
            "near": [reading("5% of the pixels wrong", 0.1)],
            "lambdas": [reading("λ = 0.5", 0.7)],
            "inverted": reading("inverted trigger", 0.0),
        },
        "lock": lock(),
        "figures": [*figures("resnet8"), arm("attack", "hard labels", "unlabelled", student="mobile")],
        "rows": [{}] * 7,
        "left_out": ["no foreign images were given"],
        "seconds": 5400.0,
    }


@pytest.fixture
def document() -> Document:
    return whole()


@pytest.fixture(scope="module")
def page() -> str:
    return render(whole())


def test_the_page_needs_no_other_host_and_no_script(page: str) -> None:
    """Nothing is fetched: the only addresses are the names of XML's vocabularies and the door, as text."""
    assert page.count(DOOR) == 1
    assert not re.search(r"https?://", re.sub(r'xmlns(:\w+)?="[^"]*"', "", page).replace(DOOR, ""))
    assert not re.search(r"<(script|link|img|iframe|object|embed)|@import|url\((?!#)", page)
    assert all(target.startswith("#") for target in re.findall(r'(?:href|src)="([^"]*)"', page))


def test_what_the_document_says_is_never_markup(document: Document) -> None:
    evil = '<script>alert("1")</script></text></svg><img src=x onerror=alert(1)>--><b>'
    document["model"]["name"] = document["door"] = document["command"] = evil
    document["left_out"] = [evil]
    document["setting"] = {evil: [evil]}
    document["verdicts"][0] |= {"promise": evil, "target": evil, "detail": evil, "student": evil}
    document["tiers"][0]["name"] = document["weights"]["near"][0]["name"] = evil
    document["lock"]["steps"] = [evil]
    for figure in document["lock"]["figures"]:
        figure["name"] += evil
        figure["step"] += evil
        figure["recovered"] = {evil: 0.5}
    for figure in document["figures"]:
        figure["name"] += evil if figure["name"] in ATTACKS else ""
        figure["student"] += evil
    page = render(document)
    assert evil not in page
    assert not re.search(r"<(script|img|b)\b", page)
    assert escape(evil) in page


def test_every_verdict_is_told_in_words(document: Document, page: str) -> None:
    assert "1 of 2 promises kept" in page
    assert [page.count(told) for told in ("✓ kept", "✗ not kept")] == [1, 1]
    for one in document["verdicts"]:
        assert all(escape(one[part]) in page for part in ("promise", "target", "detail"))
    assert "−0.25 ± 0.11" in page


def test_every_figure_is_in_the_table(document: Document, page: str) -> None:
    table = page.partition("<details>")[2].partition("</details>")[0]
    for figure in document["figures"]:
        assert f"<td>{escape(figure['name'])}</td>" in table
    assert table.count("<tr>") == 1 + len(document["figures"])
    assert "± 0.2" in table


def test_every_arm_is_in_a_plot(document: Document, page: str) -> None:
    plots = "".join(re.findall(r"<svg.*?</svg>", page, re.DOTALL))
    for figure in document["figures"]:
        assert escape(figure["name"]) in plots


def test_every_way_into_a_lock_is_in_its_table_and_its_plots(document: Document, page: str) -> None:
    section = page.partition("What the lock keeps out")[2].partition("</section>")[0]
    bars, curves = re.findall(r"<svg.*?</svg>", section, re.DOTALL)
    for figure in document["lock"]["figures"]:
        assert f"<td>{escape(figure['name'])}</td>" in section
        assert (escape(figure["name"]) in bars) is (figure["kind"] != "near miss")
    assert "shf 4 %, np 50 %" in section
    assert all(
        f">{told}<" in curves for told in ("shf", "np", "2", "4", "48", "dashed: chance", "dotted: the right key")
    )


def test_a_model_without_a_lock_is_not_told_of_one(document: Document) -> None:
    del document["lock"]
    assert "lock" not in re.sub(r"(?s)<style>.*?</style>|<svg.*?</svg>|block", "", render(document)).lower()


def test_the_same_document_makes_the_same_bytes(document: Document, page: str) -> None:
    assert render(document) == page


def test_plots_do_not_mix_up_their_names(page: str) -> None:
    """Plots share one page: an id that two of them have must mean the same in both."""
    known: dict[str, bytes] = {}
    for plot in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        for element in ElementTree.fromstring(plot).iterfind(".//*[@id]"):  # noqa: S314 - we drew it
            meaning = ElementTree.tostring(element).strip()
            assert known.setdefault(element.attrib["id"], meaning) == meaning
    assert known


def test_plots_are_drawn_of_their_own_figures_and_without_them_left_out(document: Document, page: str) -> None:
    drawn = [render({name: document[name]}).count("<svg") for name in DRAWN]
    assert all(drawn)
    assert sum(drawn) == page.count("<svg")


@pytest.mark.parametrize("missing", WRITTEN)
def test_what_is_missing_is_left_out(document: Document, missing: str) -> None:
    written = {name: document[name] for name in WRITTEN}
    shorter = {name: document[name] for name in WRITTEN if name != missing}
    assert len(render(shorter)) < len(render(written))


@pytest.mark.parametrize("group", ["reference", "key holder", "thief", "attack"])
def test_a_group_that_did_not_run_is_left_out(document: Document, group: str) -> None:
    figures = [figure for figure in document["figures"] if figure["group"] != group]
    assert f"{len(figures)} figures" in render({"figures": figures})


def test_nothing_at_all_is_a_page_too() -> None:
    page = render({})
    assert "No promise could be judged" in page
    assert "<svg" not in page


def test_one_seed_one_tier_and_no_random_key_are_enough(document: Document) -> None:
    document["figures"] = [figure | {"standard_error": None} for figure in document["figures"]]
    document["tiers"] = document["tiers"][:1]
    document["weights"] |= {"wrong": [], "near": [], "lambdas": []}
    page = render(document)
    assert "random keys" not in page.partition("What stolen weights give")[2].partition("</svg>")[0]
    assert page.count("<svg") == 9


@pytest.mark.parametrize(
    ("value", "written"),
    [(1.0, "1"), (0.314, "0.31"), (0.001, "0.001"), (4.04e-9, "4.0 · 10⁻⁹"), (9.97e-5, "1.0 · 10⁻⁴"), (0.0, "< 10⁻⁴⁰")],
)
def test_a_probability_is_written_as_people_write_it(value: float, written: str) -> None:
    assert probability(value) == written
