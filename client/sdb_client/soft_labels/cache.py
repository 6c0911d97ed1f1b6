"""Soft labels on disk, one record per image: which record is whose in SQLite, the records in a file to be mapped.

Knows keys and records; knows neither images nor what a record says. Records are written and on the disk before the
transaction that names them, so that whoever is killed at any moment leaves a cache that is whole: what no transaction
names is written over. Any number of processes may read while one writes.
"""

import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sdb_client.soft_labels.errors import DamagedCache, OtherCache

Records = NDArray[np.uint8]
UNKNOWN = -1
CHUNK = 4096  # records that are verified at once
SCHEMA = """
CREATE TABLE IF NOT EXISTS about (content TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS labels (key BLOB PRIMARY KEY, row INTEGER NOT NULL UNIQUE, digest BLOB NOT NULL);
"""


class LabelCache:
    """The records of one model in one version, in `folder`; `about` says what they are, and is remembered.

    Raises:
        OtherCache: the folder holds records of another kind.
    """

    def __init__(self, folder: Path, about: Mapping[str, object], record_bytes: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._index, self._records, self._lock = (folder / name for name in ("labels.db", "labels.bin", "writer.db"))
        self._record_bytes = record_bytes
        self._records.touch()
        with self._connected() as connection:
            connection.executescript(SCHEMA)
            self._introduce(connection, json.dumps(dict(about), sort_keys=True), folder)

    @staticmethod
    def _introduce(connection: sqlite3.Connection, about: str, folder: Path) -> None:
        connection.execute("BEGIN IMMEDIATE")  # two who come first at once: one of them is
        connection.execute("INSERT INTO about SELECT ? WHERE NOT EXISTS (SELECT 1 FROM about)", (about,))
        (found,) = connection.execute("SELECT content FROM about").fetchone()
        connection.execute("COMMIT")
        if found != about:
            raise OtherCache(f"{folder} holds {found}; ask for that, or choose another cache")

    def rows(self, keys: Sequence[bytes]) -> NDArray[np.int64]:
        """Where the records of these keys are: int64 [N], UNKNOWN where there is none."""
        with self._connected() as connection:
            rows = (connection.execute("SELECT row FROM labels WHERE key = ?", (key,)).fetchone() for key in keys)
            return np.array([UNKNOWN if row is None else row[0] for row in rows], dtype=np.int64)

    def put(self, keys: Sequence[bytes], records: Records) -> None:
        """Store a record uint8 [record_bytes] for each key that has none; all of them or, when killed, none."""
        with self._connected() as connection:
            connection.execute("BEGIN IMMEDIATE")
            (first,) = connection.execute("SELECT COALESCE(MAX(row) + 1, 0) FROM labels").fetchone()
            new = {
                key: record.tobytes()
                for key, record in zip(keys, records, strict=True)
                if connection.execute("SELECT 1 FROM labels WHERE key = ?", (key,)).fetchone() is None
            }
            with self._records.open("r+b") as file:
                file.seek(first * self._record_bytes)
                file.write(b"".join(new.values()))
                file.flush()
                os.fsync(file.fileno())
            named = [(key, first + place, _digest(key, record)) for place, (key, record) in enumerate(new.items())]
            connection.executemany("INSERT INTO labels VALUES (?, ?, ?)", named)
            connection.execute("COMMIT")

    def mapped(self) -> Records:
        """All records, read only, uint8 [rows, record_bytes], from the file as it is now; pages are read when used."""
        if self._records.stat().st_size < self._record_bytes:
            return np.empty((0, self._record_bytes), np.uint8)
        flat = np.memmap(self._records, np.uint8, "r")
        return flat[: len(flat) - len(flat) % self._record_bytes].reshape(-1, self._record_bytes)

    def verify(self) -> int:
        """Compare every record with the hash that was stored beside it; how many there are.

        Raises:
            DamagedCache: a record is not what was written.
        """
        with self._connected() as connection:
            (verdict,) = connection.execute("PRAGMA integrity_check").fetchone()
            found = connection.execute("SELECT key, row, digest FROM labels ORDER BY row").fetchall()
        records = self.mapped()
        damaged = [key for key, row, digest in found if row >= len(records) or _digest(key, records[row]) != digest]
        if damaged or verdict != "ok":
            raise DamagedCache(damaged)
        return len(found)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """One process at a time: others wait here. A process that is killed holds nothing back."""
        with closing(sqlite3.connect(self._lock, timeout=1, isolation_level=None)) as lock:
            while True:  # in steps, so that Ctrl-C is heard
                try:
                    lock.execute("BEGIN EXCLUSIVE")
                    break
                except sqlite3.OperationalError as error:
                    if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                        raise
            yield

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        """A connection of its own for each piece of work: none may cross into a process that is forked."""
        with closing(sqlite3.connect(self._index, timeout=60, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            yield connection


def _digest(key: bytes, record: bytes | Records) -> bytes:
    return hashlib.sha256(key + bytes(record)).digest()
