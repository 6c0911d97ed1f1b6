"""A fetch that is killed at any moment, and gone on with: every image is charged exactly once, the cache is whole."""

import multiprocessing
import random
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from sdb_client.soft_labels import SoftLabels

from tests.client.partners import Partner, fetch_until_killed, partner, pictures
from tests.conftest import Server

LONGEST_S = 0.05  # beyond the image that was waited for: a batch or two


@pytest.fixture
def holder(server: Server) -> Iterator[Partner]:
    with partner(server) as someone:
        yield someone


def kill_once(holder: Partner, cache: Path, images: int, *, after: int, and_s: float) -> bool:
    """Fetch in another process; kill it so many images and so many seconds later. Whether it had not finished."""
    processes = multiprocessing.get_context("forkserver")  # children without the threads of this process
    processes.set_forkserver_preload(["tests.client.partners"])
    ours, theirs = processes.Pipe(duplex=False)
    arguments = (holder.key["api_key"], holder.server.url, cache, images, theirs)
    process = processes.Process(target=fetch_until_killed, args=arguments)
    process.start()
    theirs.close()
    labelled = -1
    with suppress(EOFError):  # it has finished
        while labelled < after:
            labelled = max(labelled, 0) + ours.recv()
    process.join(and_s)
    killed = process.is_alive()
    process.kill()
    process.join()
    ours.close()
    return killed


def check(holder: Partner, cache: Path, kills: int, images: int, seed: int) -> None:
    """Kill as often, each time anywhere in the rest of the work, and finish."""
    draw = random.Random(seed)  # noqa: S311 - any moment will do
    for _ in range(kills):
        after, and_s = draw.randint(0, images // kills // 2), draw.uniform(0, LONGEST_S)
        assert kill_once(holder, cache, images, after=after, and_s=and_s), "it had finished before it was killed"
    labels = SoftLabels(pictures(images), holder.client, model="tiny", cache=cache)
    assert 0 < labels.estimate().cost < images, "it was killed in the midst of the work"
    labels.fetch()
    assert labels.verify() == len(labels) == images
    assert holder.charged == images
    assert holder.remaining == 10_000 - images
    assert not list(cache.rglob("batches/*"))


def test_three_kills_do_not_charge_an_image_twice(holder: Partner, tmp_path: Path) -> None:
    check(holder, tmp_path, kills=3, images=400, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_twenty_kills_do_not_charge_an_image_twice(holder: Partner, tmp_path: Path, seed: int) -> None:
    check(holder, tmp_path, kills=20, images=2000, seed=seed)
