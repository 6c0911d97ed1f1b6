"""The batches that are being paid for: each is written down, under the name of its request, before it is sent.

Whoever was killed in between sends the same batch under the same name again, and the server charges it once. Knows
files and pixels; knows no server.
"""

import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from sdb_client.views import Pixels

REMEMBERED_FOR_S = 24 * 3600  # by the server: later, the same name is another request (docs/keys.md)
PARTIAL = ".partial"


class Journal:
    """A folder with one file for each batch that was sent and whose answer is not stored yet."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def begin(self, images: Pixels) -> str:
        """Write down that images uint8 [N, H, W, 3] will be sent; the name to send them under."""
        name = uuid.uuid4().hex
        partial = self._file(name).with_suffix(PARTIAL)
        with partial.open("wb") as file:
            np.save(file, images, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self._file(name))
        return name

    def end(self, name: str) -> None:
        """The answer is stored, or there was no charge."""
        self._file(name).unlink(missing_ok=True)

    def unfinished(self) -> Iterator[tuple[str, Pixels]]:
        """The batches of somebody who was stopped, and their names, oldest first.

        Those that the server has forgotten by now are dropped.
        """
        for partial in self._folder.glob(f"*{PARTIAL}"):
            partial.unlink()  # stopped before anything was sent
        for file in sorted(self._folder.glob("*.npy"), key=lambda file: file.stat().st_mtime):
            if time.time() - file.stat().st_mtime < REMEMBERED_FOR_S:
                yield file.stem, np.load(file, allow_pickle=False)
            else:
                file.unlink()

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}.npy"
