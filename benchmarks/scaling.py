"""How cost grows with images, requests and keys: unit costs measured here, and what follows for three deployments.

Writes results/scaling.json and the tables of docs/scaling.md, which explains the formulas.
"""

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.rows import keep, with_table
from benchmarks.unit_costs import ServerCosts, StoreCosts, measure_server, measure_store

PAGE = Path(__file__).parent.parent / "docs" / "scaling.md"
DAY_S = 86_400
LEAST = 0.001
CORES_BUSY, STORE_BUSY = 0.6, 0.5  # what is planned with: queues stay short, and one of two may fail


@dataclass(frozen=True)
class Demand:
    """What is asked of a deployment; its regions share it equally, and keys live in one of them."""

    name: str
    images_a_day: float
    images_a_request: float
    keys: float
    charged: float = 0.5
    """The share of requests that a budget pays."""
    peak: float = 3
    """The busiest second against the mean one."""
    regions: int = 1
    days_used: float = 100
    """On how many days of the last 400 a key was used."""
    ledger_lines: float = 1000
    """Charges that a key's ledger remembers, 10,000 at most."""
    changes: float = 10
    """Entries of the audit log that a key brings with it in its life."""


@dataclass(frozen=True)
class Need:
    """What it takes in each region, at its peak."""

    requests_per_s: float
    images_per_s: float
    server_cores: float
    charges_per_s: float
    stores: float
    """Threads of the store; above 1, keys are divided among several."""
    store_gib: float
    written_mb_per_s: float


def need(demand: Demand, server: ServerCosts, store: StoreCosts) -> Need:
    """The formulas of docs/scaling.md."""
    images = demand.peak * demand.images_a_day / DAY_S / demand.regions
    requests = images / demand.images_a_request
    charges = demand.charged * requests
    busy_us = requests * server.request_us + charges * server.charged_us + images * server.image_us
    a_key = (
        store.key_bytes
        + demand.days_used * store.usage_bytes
        + demand.ledger_lines * store.ledger_bytes
        + demand.changes * store.audit_bytes
    )
    return Need(
        requests_per_s=requests,
        images_per_s=images,
        server_cores=busy_us / 1e6 / CORES_BUSY,
        charges_per_s=charges,
        stores=charges * store.charge_us / 1e6 / STORE_BUSY,
        store_gib=demand.keys / demand.regions * a_key / 2**30,
        written_mb_per_s=charges * store.charge_written_bytes / 1e6,
    )


DEMANDS = (
    Demand("a laptop", images_a_day=1e4, images_a_request=1, keys=10),
    Demand("a company", images_a_day=1e7, images_a_request=4, keys=1e3),
    Demand("the internet", images_a_day=1e9, images_a_request=8, keys=1e6, regions=3),
)
ROWS = {
    "requests_per_s": "requests/s",
    "images_per_s": "images/s",
    "server_cores": "processor cores for servers",
    "charges_per_s": "charges/s",
    "stores": "store threads",
    "store_gib": "store memory, GiB",
    "written_mb_per_s": "store writes to disk and replicas, MB/s",
}


def main() -> None:
    """Measure, reckon, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=2000, help="to the server, of each kind")
    parser.add_argument("--keys", type=int, default=2000)
    parser.add_argument("--charges", type=int, default=20_000)
    asked = parser.parse_args()
    store, server = measure_store(asked.keys, asked.charges), measure_server(asked.requests)
    needs = {demand.name: need(demand, server, store) for demand in DEMANDS}
    costs = {"asked": vars(asked), "store": asdict(store), "server": asdict(server)}
    keep("scaling", {**costs, "needs": {name: asdict(each) for name, each in needs.items()}})
    units = [(name, figure(value)) for costs in (server, store) for name, value in asdict(costs).items()]
    rows = [(title, *(figure(asdict(each)[name]) for each in needs.values())) for name, title in ROWS.items()]
    page = with_table(PAGE.read_text(), "unit costs", [(f"`{name}`", value) for name, value in units])
    PAGE.write_text(with_table(page, "needs", rows))
    for row in (*units, *rows):
        print(*row, sep="\t")


def figure(value: float) -> str:
    """Three significant digits, and no more."""
    return f"{float(f'{value:.3g}'):,.10g}" if value >= LEAST else f"< {LEAST}"


if __name__ == "__main__":
    main()
