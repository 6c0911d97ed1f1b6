"""Laws of the cache, the journal and the formats: nothing is lost, nothing is there twice, and no torch is needed."""

import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sdb_client.soft_labels.cache import LabelCache
from sdb_client.soft_labels.errors import DamagedCache, OtherCache
from sdb_client.soft_labels.formats import Dense, Top, format_of
from sdb_client.soft_labels.journal import REMEMBERED_FOR_S, Journal

ABOUT = {"model": "m", "version": "1"}
LOGITS = arrays(np.float32, (5, 12), elements=st.floats(-50, 50, width=32))


def keys(*numbers: int) -> list[bytes]:
    return [number.to_bytes(32, "big") for number in numbers]


def records(*numbers: int) -> np.ndarray:
    return np.array([[number] * 4 for number in numbers], np.uint8)


@given(LOGITS)
def test_dense_labels_are_kept_to_the_last_bit(logits: np.ndarray) -> None:
    for kept, sent in ((Dense(12, "float32"), logits), (Dense(12, "float16"), logits.astype(np.float16))):
        assert np.array_equal(kept.decode(kept.encode(sent)), sent.astype(np.float32))


@given(LOGITS, st.floats(0.5, 8))
def test_the_greatest_labels_keep_their_order_and_the_others_their_weight(
    logits: np.ndarray, temperature: float
) -> None:
    kept = Top(12, 4, temperature)
    found = kept.decode(kept.encode(logits))

    def weights(values: np.ndarray) -> np.ndarray:
        scaled = np.exp((values - values.max(1, keepdims=True)).astype(np.float64) / temperature)
        return np.asarray(scaled / scaled.sum(1, keepdims=True))

    exact, sparse = weights(logits), weights(found)
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)  # as they are kept: what is next to equal ties
    best = np.argsort(-shifted, axis=1, kind="stable")[:, :4]
    assert np.allclose(np.take_along_axis(sparse, best, 1), np.take_along_axis(exact, best, 1), atol=0.01)
    assert np.allclose(sparse.sum(1), 1)
    assert (found.max(1) == 0).all()


@pytest.mark.parametrize("store", ["float64", "top0", "top", "top12", "top016", ""])
def test_there_is_no_other_format(store: str) -> None:
    with pytest.raises(ValueError, match="top"):
        format_of(store, 12, 4.0)


def test_the_greatest_labels_need_a_temperature_and_are_small() -> None:
    with pytest.raises(ValueError, match="temperature"):
        format_of("top16", 1000, None)
    assert format_of("top16", 1000, 4.0).record_bytes == 66
    assert format_of("float16", 1000, None).record_bytes == 2000


def test_what_was_put_is_found_and_nothing_else(tmp_path: Path) -> None:
    cache = LabelCache(tmp_path, ABOUT, 4)
    assert cache.rows(keys(1)).tolist() == [-1]
    assert len(cache.mapped()) == 0
    cache.put(keys(7, 8), records(7, 8))
    cache.put(keys(9), records(9))
    rows = LabelCache(tmp_path, ABOUT, 4).rows(keys(9, 5, 7))
    assert (rows[1], cache.mapped()[rows[[0, 2]]].tolist()) == (-1, records(9, 7).tolist())
    assert cache.verify() == 3


def test_what_is_there_is_not_put_again(tmp_path: Path) -> None:
    cache = LabelCache(tmp_path, ABOUT, 4)
    cache.put(keys(1, 2, 1), records(1, 2, 3))
    cache.put(keys(2, 4), records(9, 4))
    assert cache.mapped()[cache.rows(keys(2, 4))].tolist() == records(2, 4).tolist()
    assert cache.verify() == 3


def test_records_that_no_transaction_names_are_written_over(tmp_path: Path) -> None:
    """As after a kill between the records and their names."""
    cache = LabelCache(tmp_path, ABOUT, 4)
    cache.put(keys(1), records(1))
    with (tmp_path / "labels.bin").open("ab") as file:
        file.write(b"half a rec")
    assert cache.verify() == 1
    cache.put(keys(2, 3), records(2, 3))
    assert cache.mapped()[cache.rows(keys(1, 2, 3))].tolist() == records(1, 2, 3).tolist()
    assert cache.verify() == 3


def test_a_lost_or_changed_record_is_found(tmp_path: Path) -> None:
    cache = LabelCache(tmp_path, ABOUT, 4)
    cache.put(keys(1, 2), records(1, 2))
    os.truncate(tmp_path / "labels.bin", 4)
    with pytest.raises(DamagedCache) as damaged:
        cache.verify()
    assert damaged.value.keys == keys(2)


def test_a_folder_is_of_one_kind(tmp_path: Path) -> None:
    LabelCache(tmp_path, ABOUT, 4)
    with pytest.raises(OtherCache, match='"version": "1"'):
        LabelCache(tmp_path, {**ABOUT, "version": "2"}, 4)


def test_one_process_writes_and_a_dead_one_holds_nothing_back(tmp_path: Path) -> None:
    cache = LabelCache(tmp_path, ABOUT, 4)
    holder = (
        "import sys, time; from pathlib import Path; from sdb_client.soft_labels.cache import LabelCache\n"
        f"with LabelCache(Path({str(tmp_path)!r}), {ABOUT!r}, 4).writing():\n"
        "    print('writing', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", holder], stdout=subprocess.PIPE)  # noqa: S603 - ours
    assert other.stdout is not None
    other.stdout.readline()
    with sqlite3.connect(tmp_path / "writer.db", timeout=0) as lock, pytest.raises(sqlite3.OperationalError):
        lock.execute("BEGIN EXCLUSIVE")
    lock.close()
    assert cache.rows(keys(1)).tolist() == [-1], "others may read"
    other.kill()
    other.communicate()
    with cache.writing():
        cache.put(keys(1), records(1))


def test_a_batch_is_in_the_journal_from_its_begin_to_its_end(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    first, second = (np.full((2, 4, 4, 3), number, np.uint8) for number in (1, 2))
    names = [journal.begin(first), journal.begin(second)]
    found = dict(Journal(tmp_path).unfinished())
    assert list(found) == names
    assert np.array_equal(found[names[1]], second)
    journal.end(names[0])
    assert [name for name, _ in journal.unfinished()] == names[1:]


def test_a_batch_that_was_half_written_or_that_the_server_has_forgotten_is_dropped(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    name = journal.begin(np.zeros((1, 4, 4, 3), np.uint8))
    (tmp_path / "half.partial").write_bytes(b"\x93NUMPY")
    long_ago = time.time() - REMEMBERED_FOR_S
    os.utime(tmp_path / f"{name}.npy", (long_ago, long_ago))
    assert not list(journal.unfinished())
    assert not list(tmp_path.iterdir())


def test_cache_and_estimate_and_export_need_no_torch() -> None:
    names = ("cache", "estimate", "export", "formats", "journal", "labeller")
    code = (
        "import sys, importlib\nfor name in sys.argv[1:]: importlib.import_module(f'sdb_client.soft_labels.{name}')\n"
    )
    code += "assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code, *names], check=True)  # noqa: S603 - ours
