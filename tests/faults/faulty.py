"""The server as `sdb serve` starts it, with a model that breaks when a file says so: a bundle cannot hold code.

    python -m tests.faults.faulty FILE serve

What the file says (`Order`) happens to the next batch, or to all of them as long as it says so.
"""

import ctypes
import enum
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from app.cli import main
from models.predictor import Predictor

FOREVER_S = 3600.0
Call = Callable[..., Any]


class Order(enum.StrEnum):
    """What is to happen."""

    RAISE = "every batch raises"
    NAN = "the first row of every batch is not a number"
    FULL = "no batch finds memory"
    HANG = "the next batch hangs for ever"
    HANG_ALL = "every batch hangs until this is withdrawn"
    DIE = "the thread of the next batch dies when it has answered"
    SLOW = "every batch takes half a second"


class Orders:
    """The file."""

    def __init__(self, path: Path) -> None:
        self._path, self._one_at_a_time = path, threading.Lock()

    def give(self, order: Order) -> None:
        """Let that happen from now on, or once."""
        whole = self._path.with_suffix(".whole")  # the other process must not read half of it
        whole.write_text(order.value)
        whole.replace(self._path)

    def withdraw(self) -> None:
        """Let all be well."""
        self._path.unlink(missing_ok=True)

    def take(self) -> Order | None:
        """What is to happen now."""
        with self._one_at_a_time:
            try:
                order = Order(self._path.read_text())
            except FileNotFoundError:
                return None
            if order in {Order.HANG, Order.DIE}:
                self.withdraw()
            return order


def broken(call: Call, orders: Orders) -> Call:
    """`call` of a predictor, which obeys."""

    def obeying(self: Predictor, *arguments: Any) -> Any:  # noqa: ANN401
        order = orders.take()
        if order is Order.RAISE:
            raise RuntimeError("the model is broken")
        if order is Order.FULL:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
        if order is Order.HANG:
            time.sleep(FOREVER_S)
        while order is Order.HANG_ALL and orders.take() is Order.HANG_ALL:
            time.sleep(0.05)
        if order is Order.SLOW:
            time.sleep(0.5)
        logits = call(self, *arguments)
        if order is Order.NAN:
            logits = np.array(logits)
            logits[0] = np.nan
        if order is Order.DIE:
            threading.Thread(target=_kill, args=(threading.current_thread(),), daemon=True).start()
        return logits

    return obeying


def _kill(thread: threading.Thread) -> None:
    """Raise SystemExit wherever that thread is, until it has ended."""
    while thread.is_alive():
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit))
        time.sleep(0.05)


if __name__ == "__main__":
    Predictor.__call__ = broken(Predictor.__call__, Orders(Path(sys.argv.pop(1))))  # type: ignore[method-assign]
    main()
