"""HTTP by hand: callers that are slow, that hang up in the midst, or that say what no client library would."""

import select
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx


@contextmanager
def connected(url: str, timeout_s: float = 60.0) -> Iterator[socket.socket]:
    """A connection to the server."""
    address = httpx.URL(url)
    with socket.create_connection((address.host, address.port), timeout=timeout_s) as connection:
        yield connection


def head(length: int, credential: str = "", more: str = "") -> bytes:
    """The head of a prediction's request."""
    lines = ["POST /v1/models/tiny/predict HTTP/1.1", "Host: box", f"Content-Length: {length}"]
    lines += [f"Authorization: Bearer {credential}"] if credential else []
    return "\r\n".join([*lines, *([more] if more else []), "", ""]).encode()


def answer(connection: socket.socket) -> tuple[int, bytes]:
    """The status and all that comes until the server closes; status 0 if nothing does."""
    received = b""
    try:
        while part := connection.recv(65536):
            received += part
    except ConnectionResetError:
        pass
    return int(received.split(b" ", 2)[1]) if received else 0, received


def drip(connection: socket.socket, data: bytes, every_s: float) -> tuple[int, float]:
    """Send a byte at a time until the server has had enough: the status of its answer, and after how many seconds."""
    began = time.monotonic()
    for number in range(len(data)):
        try:
            connection.sendall(data[number : number + 1])
        except OSError:
            break
        if select.select([connection], [], [], every_s)[0]:
            break
    took_s = time.monotonic() - began
    return answer(connection)[0], took_s
