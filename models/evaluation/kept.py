"""What a study has finished lies on disk, named by everything that decided it: made once, found again after Ctrl-C.

Knows neither rows nor readings. Processes that make different things may share a folder.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter

from models.bundles import write_atomically
from models.training.loop import Interrupted

Result = TypeVar("Result")


def place(folder: Path, facts: object) -> Path:
    """The file in `folder` for the work that these JSON `facts` decide."""
    name = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]
    return folder / f"{name}.json"


def kept(path: Path, form: type[Result], make: Callable[[], Result], title: str) -> Result:
    """The dataclass `form` that lies at `path`; if there is none, what `make` returns, whose checkpoints then go.

    Raises:
        Interrupted: Ctrl-C, while `title` was made.
    """
    if path.exists():
        return TypeAdapter(form).validate_json(path.read_bytes())
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        result: Any = make()
    except KeyboardInterrupt as error:  # outside of the training loop, which says so itself
        raise Interrupted(f"{title} stopped") from error
    write_atomically(path, json.dumps(asdict(result)).encode())
    for left in path.parent.glob(f"{path.stem}.*pt"):
        left.unlink()
    return result  # type: ignore[no-any-return]
