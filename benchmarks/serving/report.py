"""A run as tables: on the terminal, and as the generated part of docs/performance.md with its figure.

Knows figures and targets; measures nothing.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.plots import DOCS, drawn
from benchmarks.serving.figures import P50, P99, SPEED, Figures, median, ratio
from benchmarks.serving.rounds import BULK
from benchmarks.serving.targets import targets

PAGE, FIGURE = DOCS / "performance.md", DOCS / "figures" / "throughput.svg"
BEGIN, END = "<!-- made by python -m benchmarks.serving: begin -->", "<!-- end -->"
TITLES = {
    "small": "small: ResNet-20, 10 classes, JPEG of 32 px",
    "large": "large: ResNet-18, 1,000 classes, JPEG of 256 px",
    "wide": "wide: four tiny convolutions, 1,000 classes",
}
CONNECTIONS = (1, 8, 32, 64)
Rows = Sequence[Sequence[str]]
Named = tuple[str, Sequence[str], Rows]


def tables(figures: Figures) -> Iterator[Named]:
    """Title, header and rows of each table."""
    yield (
        "targets",
        ("", "measured", "wanted", ""),
        [(t.what, f"{_number(t.measured)}{t.unit}", t.wanted, t.verdict) for t in targets(figures)],
    )
    for workload, title in TITLES.items():
        if _servers(figures, workload):
            header = ("server", *(f"{c} connections" for c in CONNECTIONS), "best / ceiling")
            yield title, header, [_speeds(figures, server, workload) for server in _servers(figures, workload)]
    yield "more loads on this server", ("server", "load", "per second", "p50 ms", "p99 ms"), list(_more(figures))
    header = ("server", "start s", "processes", "RSS MiB", "PSS MiB")
    yield "start and memory, small model", header, list(_weights(figures))
    header = ("whose", "model", "runtime", "decode and forward, images/s", "forward, images/s", "one image, ms")
    yield "ceilings: the same work without a server", header, list(_ceilings(figures))


def _servers(figures: Figures, workload: str) -> list[str]:
    found = [row["server"] for row in figures.rows if row["workload"] == workload and row["load"] == "32"]
    return sorted(found, key=lambda server: (not server.startswith("ours"), found.index(server)))


def _speeds(figures: Figures, server: str, workload: str) -> list[str]:
    """Requests a second and p50/p99 by connections, and the best of them against what the same work comes to."""
    cells = [_speed(figures, server, workload, str(connections)) for connections in CONNECTIONS]
    own = max((figures.rounds(server, workload, str(c)) for c in CONNECTIONS), key=lambda found: median(found) or 0.0)
    ceiling = [] if server == "ours/no guard" else figures.ceiling(server, workload, "best")
    return [server, *cells, _number(ratio(own, ceiling))]


def _speed(figures: Figures, server: str, workload: str, load: str) -> str:
    rounds = figures.rounds(server, workload, load)
    if not rounds:
        return "–"
    p50, p99 = (figures.median(server, workload, load, number) for number in (P50, P99))
    return (
        f"{_number(median(rounds))} [{_number(min(rounds))}–{_number(max(rounds))}]; {_number(p50)}/{_number(p99)} ms"
    )


def _more(figures: Figures) -> Iterator[list[str]]:
    told = {
        "public": "public tier, 32 connections",
        "distill": "authorised tier, 32 connections",
        "even": "70 % load, due evenly",
        "poisson": "70 % load, due at random",
        BULK: "bulk, 4 calls of 256 images at once; images",
    }
    for row in figures.rows:
        if row["load"] in told:
            title = f"{row['server']}, {row['workload']}"
            yield [title, told[row["load"]], *(_number(median(row[number])) for number in (SPEED, P50, P99))]


def _weights(figures: Figures) -> Iterator[list[str]]:
    for row in figures.starts:
        if row["workload"] == "small":
            numbers = (median(row[name]) for name in ("seconds", "processes", "resident", "proportional"))
            yield [row["server"], *map(_number, numbers)]


def _ceilings(figures: Figures) -> Iterator[list[str]]:
    for row in figures.ceilings:
        numbers = (median(row[name]) for name in ("best", "best_forward", "forward_1_ms"))
        whose = "peers" if row["name"] == "peer" else row["name"]
        yield [whose, row["workload"], row["runtime"].partition(";")[0], *map(_number, numbers)]


def _number(number: float | None) -> str:
    """Three digits that count."""
    if number is None:
        return "–"
    return f"{number:.0f}" if abs(number) >= 100 else f"{number:.3g}"


def show(figures: Figures) -> None:
    """Print every table."""
    console = Console(width=180)
    for title, header, rows in tables(figures):
        table = Table(*header, title=title)
        for row in rows:
            table.add_row(*row)
        console.print(table)
    for skipped in figures.skipped:
        console.print(f"left out: {skipped['server']}, {skipped['workload']}: {skipped['reason']}", markup=False)


def markdown(figures: Figures) -> str:
    """Every table as Markdown."""
    parts = [_told(figures)]
    for title, header, rows in tables(figures):
        lines = ["| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *rows)]
        parts.append("\n".join([f"### {title[0].upper()}{title[1:]}", "", *lines]))
    parts += [f"Left out: {s['server']}, {s['workload']}: {s['reason'].splitlines()[0]}" for s in figures.skipped]
    return "\n\n".join(parts)


def _told(figures: Figures) -> str:
    about = figures.about
    versions = {name: version for row in figures.starts for name, version in row["versions"].items()}
    listed = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    return (
        f"`{about['command']}` at commit {about['commit']}: {about['processor']}, {about['cores']} cores, Python "
        f"{about['python']}, torch {about['torch']}; {about['rounds']} rounds of {about['seconds']:g} s a load, "
        f"{about['minutes']} minutes in all, {about['errors']} errors. Peers' packages: {listed}."
    )


def write(figures: Figures) -> None:
    """Put the tables between the markers of docs/performance.md, and draw the figure."""
    before, rest = PAGE.read_text().split(BEGIN)
    after = rest.split(END, 1)[1]
    PAGE.write_text(f"{before}{BEGIN}\n{markdown(figures)}\n{END}{after}")
    draw(figures, FIGURE)


def draw(figures: Figures, path: Path) -> None:
    """Throughput by connections, one panel a workload, as SVG."""
    workloads = ("small", "large")
    with drawn(path, 9, 3.2, ncols=len(workloads)) as panels:
        for panel, workload in zip(panels, workloads, strict=True):
            for server in _servers(figures, workload):
                speeds = [figures.median(server, workload, str(c)) for c in CONNECTIONS]
                ours = server.startswith("ours")
                style = {"lw": 2.2, "marker": "o"} if ours else {"lw": 1, "marker": ".", "ls": "--"}
                panel.plot([str(c) for c in CONNECTIONS], speeds, label=server.replace("_", " "), **style)
            panel.set_title(TITLES[workload].partition(",")[0], fontsize=9)
            panel.set_xlabel("connections")
            panel.set_ylim(bottom=0)
        panels[0].set_ylabel("requests per second")
        panels[0].legend(fontsize=7, frameon=False)
