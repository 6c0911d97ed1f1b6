"""A key holder who fetches soft labels: data sets, and a process of its own that may be killed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import httpx
import numpy as np
from numpy.typing import NDArray
from sdb_client import Client
from sdb_client.soft_labels import SoftLabels
from torch.utils.data import IterableDataset

from tests.conftest import Server, smooth_images

Item = tuple[NDArray[np.uint8], int]


def pictures(count: int, seed: int = 0, side: int = 32) -> list[Item]:
    """Smooth images uint8 [side, side, 3] with labels."""
    images = smooth_images(count, side, seed).permute(0, 2, 3, 1).numpy()
    return [(np.ascontiguousarray(image), number % 10) for number, image in enumerate(images)]


class Passing(IterableDataset[Item]):
    """The same images without numbers."""

    def __init__(self, items: list[Item]) -> None:
        self._items = items

    def __iter__(self) -> Iterator[Item]:
        return iter(self._items)


@dataclass(frozen=True)
class Partner:
    """The holder of one key of a server, and a client that presents it."""

    server: Server
    key: dict[str, str]
    client: Client

    def usage(self, outcome: str) -> int:
        """How many images had this outcome, as the server's ledger says."""
        path = f"{self.server.url}/admin/v1/keys/{self.key['id']}/usage"
        answer = httpx.get(path, params={"bucket": "day"}, headers=self.server.admin).json()
        return sum(line["images"] for line in answer["usage"] if line["outcome"] == outcome)

    @property
    def charged(self) -> int:
        """How many answers the key has paid for."""
        return self.usage("served")

    @property
    def remaining(self) -> int:
        """What is left of the budget."""
        budget = self.client.me().budget
        assert budget is not None
        assert budget.remaining is not None
        return budget.remaining

    def top_up(self, answers: int) -> None:
        """An admin adds to the budget."""
        path = f"{self.server.url}/admin/v1/keys/{self.key['id']}/top-up"
        assert httpx.post(path, json={"answers": answers}, headers=self.server.admin).is_success


@contextmanager
def partner(server: Server, limit: int | None = 10_000, **grant: object) -> Iterator[Partner]:
    """Somebody with a new key, until the body ends."""
    body = {"name": "partner", "scopes": ["predict", "distill"], "budget": {"limit": limit}, **grant}
    answer = httpx.post(f"{server.url}/admin/v1/keys", json=body, headers=server.admin)
    assert answer.status_code == 201, answer.text
    with Client(answer.json()["api_key"], server.url) as client:
        yield Partner(server, answer.json(), client)


def fetch_until_killed(api_key: str, url: str, cache: Path, count: int, progress: Connection) -> None:
    """What a process does that is killed in between; it says how many images have been labelled since it began."""

    @contextmanager
    def bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
        del title, total
        progress.send(0)
        yield progress.send

    with Client(api_key, url) as client:
        labels = SoftLabels(pictures(count), client, model="tiny", cache=cache, batch_size=8, concurrency=3)
        labels.fetch(bar)
