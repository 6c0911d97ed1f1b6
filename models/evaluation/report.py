"""The protection report: one HTML page, plots inside, from the document that an evaluation writes.

Knows the page and its plots; measures nothing and judges nothing.
"""

import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from models.evaluation import drawing, lock_plots
from models.evaluation.drawing import BLUE, GREEN, GREY, INK, RED, Entry, Line

SECTIONS = (  # title, group, holdings ("" for any), colour
    ("references", "reference", "", GREY),
    ("key holders", "key holder", "", BLUE),
    ("thieves of the weights", "thief", "", RED),
    ("attacks without labels", "attack", "unlabelled", RED),
    ("attacks with labels", "attack", "labelled", RED),
    ("attacks, out of distribution", "attack", "out of distribution", RED),
)
TIERS = {"public": RED, "authorised": BLUE, "teacher": GREY}
ATTACKS = ((RED, "s"), ("#8f2d1b", "^"), ("#d9a441", "D"), ("#7d4f9e", "v"))  # lines of the budget plot
LEAST = 1e-4  # nats: what a logarithmic axis shows of less
BARE = {"bare teacher, one label, α = 0.9": "dashed", "bare teacher, live views": "dotted"}


def render(document: Entry) -> str:
    """The page. What `document` lacks is left out of it; what it has is escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(number=drawing.number, measured=_measured, duration=_duration, plain=_plain)
    figures, tiers = (document.get(name) or [] for name in ("figures", "tiers"))
    weights: Entry | None = document.get("weights")
    lock: Entry | None = document.get("lock")
    return environment.get_template("report.html.j2").render(
        document=document,
        students=[(student, _accuracies(own)) for student, own in _by_student(figures).items()],
        budget=_budget(figures),
        views=_views(figures),
        reliability=_reliability(tiers),
        cost=_cost(tiers),
        stolen=_stolen(weights) if weights else "",
        readings=_told(weights) if weights else [],
        ways_in=lock_plots.ways_in(lock) if lock else "",
        near_misses=lock_plots.near_misses(lock) if lock else "",
    )


def _accuracies(figures: Sequence[Entry]) -> str:
    """Every arm of one student that has all images, group by group, the best first."""
    whole = [figure for figure in figures if figure["share"] == 1.0]
    lines = [line for section in SECTIONS for line in _section(whole, *section)]
    references = {
        "dashed: hard labels, the floor": ("dashed", _top1(whole, "attack", "hard labels", "unlabelled")),
        "dotted: alone": ("dotted", _top1(whole, "reference", "alone", "labelled")),
    }
    known = {told: (style, at) for told, (style, at) in references.items() if at is not None}
    highest = max((arm["test_top1"] for arm in whole), default=0.0)
    # as much room below the references as above, and a little more
    lowest = min((2 * at - highest - 3 for _, at in known.values()), default=-math.inf)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        drawing.dots(axes, lines, lowest)
        for style, at in known.values():
            axes.axvline(at, color=INK, lw=0.9, ls=style, zorder=1)
        axes.set_xlabel("\n".join(["top-1 of the student on the test images, %", *known]))

    return drawing.svg(draw, 0.9 + 0.18 * len(lines)) if lines else ""


def _section(figures: Iterable[Entry], title: str, group: str, holdings: str, colour: str) -> list[Line]:
    arms = [arm for arm in figures if arm["group"] == group and holdings in ("", arm["holdings"])]
    arms.sort(key=lambda arm: -arm["test_top1"])
    return [Line(title, colour), *(_arm(arm, colour) for arm in arms)] if arms else []


def _arm(figure: Entry, colour: str) -> Line:
    value, error = figure["test_top1"], figure["standard_error"]
    told = drawing.number(value) if error is None else f"{drawing.number(value)} ± {drawing.number(error)}"
    return Line(figure["name"], colour, [value], error, told)


def _top1(figures: Iterable[Entry], group: str, name: str, holdings: str) -> float | None:
    wanted = (group, name, holdings)
    found = (arm["test_top1"] for arm in figures if (arm["group"], arm["name"], arm["holdings"]) == wanted)
    return next(found, None)


def _budget(figures: Sequence[Entry]) -> str:
    """Accuracy over queries of the arms that were given several shares of the unlabelled images."""
    asking = [figure for figure in figures if figure["holdings"] == "unlabelled" and figure["queries"] > 0]
    arms: dict[tuple[str, str, str], list[Entry]] = {}
    for figure in asking:
        arms.setdefault((figure["student"], figure["group"], figure["name"]), []).append(figure)
    curves = {arm: sorted(found, key=lambda one: one["queries"]) for arm, found in arms.items() if len(found) > 1}
    names = list(dict.fromkeys((group, name) for _, group, name in curves))
    others = [name for name in names if name[0] != "reference" and name[1] != "hard labels"]

    def look(arm: tuple[str, str]) -> dict[str, Any]:
        if arm not in others:
            return {"color": GREY if arm[0] == "reference" else INK, "ls": "dashed", "marker": "o"}
        colour, marker = ATTACKS[others.index(arm) % len(ATTACKS)]
        return {"color": colour, "ls": "solid", "marker": marker}

    def draw(figure: Figure) -> None:
        panels = drawing.panels(figure, dict.fromkeys(student for student, *_ in curves))
        for (student, *arm), points in curves.items():
            panels[student].errorbar(*_points(points, "queries"), lw=1.2, ms=4, **look((arm[0], arm[1])))
        for axes in panels.values():
            drawing.logarithmic(axes, "{x:,.0f}")
            axes.set(xlabel="queries", ylabel="student's top-1, %")
        drawing.legend(figure, {name: look((group, name)) for group, name in names}, 2)

    height = 3.2 * drawing.panel_rows(len({arm[0] for arm in curves})) + 0.1 * len(names)
    return drawing.svg(draw, height) if curves else ""


def _views(figures: Sequence[Entry]) -> str:
    """A key holder's accuracy over views per image; the bare teacher's answers as lines across."""
    own = {student: _viewed(found) for student, found in _by_student(figures).items()}
    own = {student: found for student, found in own.items() if found}
    known = {figure["name"] for figure in figures}
    lines = {name: style for name, style in BARE.items() if name in known}

    def draw(figure: Figure) -> None:
        panels = drawing.panels(figure, own)
        for student, axes in panels.items():
            axes.errorbar(*_points(own[student], "views"), color=BLUE, marker="o", ms=4, lw=1.2)
            for name, style in lines.items():
                at = _top1(_by_student(figures)[student], "reference", name, "labelled")
                if at is not None:
                    axes.axhline(at, color=INK, lw=0.9, ls=style)
            axes.set_xscale("log", base=2)
            axes.set_xticks(*zip(*((one["views"], str(one["views"])) for one in own[student]), strict=True))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.set(xlabel="views per image", ylabel="student's top-1, %")
        across: dict[str, Entry] = {name: {"color": INK, "ls": style} for name, style in lines.items()}
        drawing.legend(figure, {"key holder": {"color": BLUE, "marker": "o"}} | across, 3)

    return drawing.svg(draw, 3.0 * drawing.panel_rows(len(own))) if own else ""


def _viewed(figures: Iterable[Entry]) -> list[Entry]:
    found = []
    for figure in figures:
        views = re.fullmatch(r"key, (?:(\d+) views?|one label, α = 0\.9)", figure["name"])
        if views and figure["group"] == "key holder" and figure["share"] == 1.0:
            found.append({**figure, "views": int(views[1] or 1)})
    return sorted(found, key=lambda figure: figure["views"])


def _reliability(tiers: Sequence[Entry]) -> str:
    """Accuracy over confidence, tier by tier; a dot's area is the share of the answers in it."""

    def draw(figure: Figure) -> None:
        for tier, axes in zip(tiers, drawing.panels(figure, [tier["name"] for tier in tiers]).values(), strict=True):
            bins = tier["reliability"]
            x, y, size = ([100 * group[name] for group in bins] for name in ("confidence", "accuracy", "share"))
            colour = TIERS.get(tier["name"], INK)
            axes.plot([0, 100], [0, 100], color=INK, lw=0.8, ls="dashed")
            axes.plot(x, y, color=colour, lw=1)
            axes.scatter(x, y, [8 + 1.5 * share for share in size], color=colour, alpha=0.8, clip_on=False)
            axes.set(xlim=(0, 104), ylim=(0, 104), aspect="equal", xlabel="confidence, %", ylabel="right, %")

    return drawing.svg(draw, 2.7 * drawing.panel_rows(len(tiers))) if tiers else ""


def _cost(tiers: Sequence[Entry]) -> str:
    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        times, places = [tier["ms_per_query"] for tier in tiers], range(len(tiers))
        axes.barh(places, times, 0.6, color=[TIERS.get(tier["name"], INK) for tier in tiers])
        for place, time in zip(places, times, strict=True):
            axes.text(1.01, place, drawing.number(time, 2), transform=axes.get_yaxis_transform(), va="center")
        axes.set_yticks(places, [drawing.short(tier["name"]) for tier in tiers])
        axes.invert_yaxis()
        axes.set_xlabel("milliseconds per query")

    return drawing.svg(draw, 0.6 + 0.28 * len(tiers)) if tiers else ""


def _readings(weights: Entry) -> list[tuple[str, str, Sequence[Entry]]]:
    """Every way to ask the stolen network: what it is called, its colour and what it gave."""
    wrong = weights["wrong"]
    return [
        ("the right key", GREEN, [weights["right_of_part"]]),
        *((one["name"], RED, [one]) for one in (*weights["near"], *weights["lambdas"])),
        *([(f"{len(wrong)} random keys", RED, wrong)] if wrong else []),
        ("inverted trigger", RED, [weights["inverted"]]),
        ("sought normalisation", RED, [weights["renormalised"]]),
        ("no key, recalibrated", RED, [weights["recalibrated"]]),
        ("no key", RED, [weights["without"]]),
    ]


def _stolen(weights: Entry) -> str:
    """How far from the teacher the stolen network is, asked in each way."""
    lines = []
    for name, colour, found in _readings(weights):
        values = [max(one["kl_softened"], LEAST) for one in found]
        lines.append(Line(name, colour, values, told=drawing.span(values, 3)))

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        drawing.dots(axes, lines)
        axes.axvline(lines[0].values[0], color=GREEN, lw=0.9, ls="dashed", zorder=1)
        drawing.logarithmic(axes, "{x:g}")
        axes.set_xlabel("KL(teacher ‖ stolen network), nats at T = 4\ndashed: with the right key")

    return drawing.svg(draw, 0.8 + 0.2 * len(lines))


def _told(weights: Entry) -> list[dict[str, str]]:
    """The readings as the table tells them; the first is the teacher's own."""
    found = [(name, readings) for name, _, readings in _readings(weights)]
    found.insert(1, ("the right key, all test images", [weights["right"]]))
    teacher = {
        "name": "the teacher",
        "top1": drawing.number(100 * weights["teacher_top1"]),
        "kl": "–",
        "kl_softened": "–",
    }
    return [teacher] + [
        {
            "name": name,
            "top1": drawing.span([100 * one["top1"] for one in readings], 1),
            "kl": drawing.span([one["kl"] for one in readings], 3),
            "kl_softened": drawing.span([one["kl_softened"] for one in readings], 3),
        }
        for name, readings in found
    ]


def _points(figures: Sequence[Entry], over: str) -> tuple[list[float], list[float], list[float]]:
    """What an errorbar plot takes: x, y and the errors of y."""
    errors = [figure["standard_error"] or 0.0 for figure in figures]
    return [figure[over] for figure in figures], [figure["test_top1"] for figure in figures], errors


def _by_student(figures: Iterable[Entry]) -> dict[str, list[Entry]]:
    students: dict[str, list[Entry]] = {}
    for figure in figures:
        students.setdefault(figure["student"], []).append(figure)
    return students


def _measured(verdict: Entry) -> str:
    """What a verdict measured, as fine as its target: a ratio, or a difference with its sign."""
    if "×" in verdict["target"]:
        return f"{verdict['measured']:,.1f} ×"
    error = "" if verdict["standard_error"] is None else f" ± {verdict['standard_error']:.2f}"
    return f"{verdict['measured']:+.2f}".replace("-", "−") + error


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _plain(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
