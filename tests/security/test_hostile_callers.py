"""A real server under what no client sends: nothing hangs, nothing fails, memory stays, the log is its own."""

import gzip
import io
import json
import os
import socket
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.app.oip import LENGTH, body, pixels
from tests.conftest import Server, serving

pytestmark = pytest.mark.slow

PREDICT, INFER = "/v1/models/tiny/predict", "/v2/models/tiny/infer"
WORKED_FOR_S, ANSWERED_WITHIN_S, MOST_GROWTH_BYTES = 5.0, 30.0, 2**30
MEGABYTE = 2**20
JSON, FORM = {"Content-Type": "application/json"}, {"Content-Type": "multipart/form-data; boundary=x"}
PART = b'Content-Disposition: form-data; name="image"; filename="a"\r\n\r\na\r\n--x\r\n'


@pytest.fixture(scope="module")
def server(zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("hostile") / "var", zoo) as server:
        yield server


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, packed: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def saved(kind: str, size: tuple[int, int], **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (3, 99, 9)).save(buffer, kind, **options)
    return buffer.getvalue()


def progressive(scans: int) -> bytes:
    plain = saved("JPEG", (5000, 5000), progressive=True)
    last = plain.rindex(b"\xff\xda")
    return plain[:last] + plain[last:-2] * scans + plain[-2:]


def tensor(shape: list[int], datatype: str = "UINT8", raw: bytes = b"") -> tuple[bytes, dict[str, str]]:
    given = {"name": "image", "shape": shape, "datatype": datatype, "parameters": {"binary_data_size": len(raw)}}
    sent, length = body(given, raw)
    return sent, {LENGTH: str(length)}


HOSTILE: dict[str, Callable[[], tuple[str, bytes, dict[str, str], set[int]]]] = {
    "PNG bomb, honest header": lambda: (PREDICT, png(60_000, 60_000, zlib.compress(bytes(MEGABYTE))), {}, {422}),
    "PNG bomb, lying header": lambda: (PREDICT, png(8, 8, zlib.compress(bytes(64 * MEGABYTE))), {}, {200, 422}),
    "WebP bomb": lambda: (PREDICT, saved("WEBP", (5001, 5001), lossless=True, method=0), {}, {422}),
    "JPEG of 3,000 scans": lambda: (PREDICT, progressive(3000), {}, {422}),
    "the most pixels that are taken": lambda: (PREDICT, saved("PNG", (5000, 5000)), {}, {200}),
    "gzip bomb": lambda: (PREDICT, gzip.compress(bytes(128 * MEGABYTE), 1), {"Content-Encoding": "gzip"}, {413}),
    "deflate bomb": lambda: (PREDICT, zlib.compress(bytes(128 * MEGABYTE), 1), {"Content-Encoding": "deflate"}, {413}),
    "deep JSON": lambda: (INFER, b"[" * (8 * MEGABYTE), {}, {400}),
    "deep JSON objects": lambda: (INFER, b'{"a":' * MEGABYTE, {}, {400}),
    "wide JSON": lambda: (INFER, b'{"inputs":[' + b"0," * (7 * MEGABYTE) + b"0]}", {}, {400}),
    "JSON of a hundred thousand lists": lambda: (INFER, b"[" + b"[]," * 200_000 + b"[]]", {}, {400}),
    "NaN": lambda: (
        INFER,
        b'{"inputs":[{"name":"image","shape":[1,1,1,3],"datatype":"UINT8","data":[NaN]}]}',
        {},
        {400},
    ),
    "a float for a size": lambda: (INFER, json.dumps({"inputs": [{"shape": [1e300]}]}).encode(), {}, {400}),
    "sizes whose product overflows": lambda: (INFER, *tensor([2**32, 2**32, 2**32, 3]), {400}),
    "sizes whose product is 0 in 64 bits": lambda: (INFER, *tensor([1, 2**32, 2**32, 3]), {400}),
    "a negative size": lambda: (INFER, *tensor([1, -1, -1, 3], raw=b"abc"), {400}),
    "a size beyond 64 bits": lambda: (INFER, *tensor([1, 2**70, 1, 3]), {400}),
    "FP32 of NaN": lambda: (INFER, *tensor([1, 1, 1, 3], "FP32", np.full(3, np.nan, "f4").tobytes()), {400}),
    "one pixel, 256 times": lambda: (INFER, *_pixels(256, 1), {200}),
    "a million images in JSON": lambda: (PREDICT, b'{"images":["AAAA"' + b',"AAAA"' * 10**6 + b"]}", JSON, {400}),
    "a hundred thousand images in a form": lambda: (PREDICT, b"--x\r\n" + PART * 10**5 + b"--x--", FORM, {400}),
    "a million pixels in a row": lambda: (PREDICT, saved("PNG", (10**6, 1)), {}, {200}),
}


def _pixels(count: int, side: int) -> tuple[bytes, dict[str, str]]:
    sent, length = body(*pixels(np.zeros((count, side, side, 3), np.uint8)))
    return sent, {LENGTH: str(length)}


@pytest.mark.parametrize("made", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_content_is_refused_in_time_while_others_are_answered(
    server: Server, photo: bytes, made: Callable[[], tuple[str, bytes, dict[str, str], set[int]]]
) -> None:
    path, content, headers, expected = made()
    before, began = resident_bytes(server), worked_s(server)
    answer = httpx.post(server.url + path, content=content, headers=headers, timeout=ANSWERED_WITHIN_S)
    assert answer.status_code in expected, answer.text[:500]
    assert worked_s(server) - began < WORKED_FOR_S
    assert httpx.post(server.url + PREDICT, content=photo).status_code == 200
    assert resident_bytes(server) - before < MOST_GROWTH_BYTES


def resident_bytes(server: Server) -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) * 1024


def worked_s(server: Server) -> float:
    """How long the server's threads have run in all: what else the machine does is not held against it."""
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


TRAVERSALS = (
    "..%2f..%2fetc%2fpasswd",
    "%2e%2e",
    "....//",
    "%00",
    "tiny%00",
    "tiny%2f..%2ftiny",
    "C:%5c",
    "%c0%ae%c0%ae",
)


@pytest.mark.parametrize("name", TRAVERSALS)
def test_no_models_name_reaches_a_file(server: Server, photo: bytes, name: str) -> None:
    for path in (f"/v1/models/{name}/predict", f"/v2/models/{name}/infer", f"/hf/models/{name}"):
        answer = httpx.post(server.url + path, content=photo)
        assert answer.status_code in {404, 405}, answer.text
        assert "root:" not in answer.text
    for path in (f"/v1/models/{name}", f"/console/static/{name}"):
        assert httpx.get(server.url + path).status_code in {303, 401, 404}


def raw(server: Server, sent: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), timeout=5) as connection:
        connection.sendall(sent)
        found = b""
        while part := connection.recv(2**16):
            found += part
    return found


FORGED = "2026-11-22 INFO sdb forged line"


def test_no_caller_writes_a_line_of_the_log(server: Server) -> None:
    """In a path, a query, a header, a key's name: line breaks and a terminal's commands stay what they are."""
    for broken in ("%0D%0A", "%0A", "%E2%80%A8", "%1B%5B2K%1B%5B1A", "%C2%85"):
        httpx.get(f"{server.url}/v1/models/x{broken}{FORGED}")
        httpx.get(f"{server.url}/v1/models?x={broken}{FORGED}")
        httpx.post(f"{server.url}/admin/v1/keys", json={"name": f"\n{FORGED}"}, headers=server.admin)
    head = b"GET /livez HTTP/1.1\r\nHost: box\r\nConnection: close\r\n"
    for header in (
        b"X-Request-ID: a\xc2\x85b",
        b"X-Request-ID: \x1b[2K",
        b"traceparent: 00-\n",
        b"User-Agent: \xff\xfe",
    ):
        raw(server, head + header + b"\r\n\r\n")
    log = server.state_dir.with_suffix(".log").read_bytes()
    assert b"\x1b" not in log
    lines = log.decode().splitlines()
    assert not [line for line in lines if line.startswith(FORGED)]
    assert all(" sdb" in line or " uvicorn" in line for line in lines[5:] if line and line[0].isdigit())


def test_an_endless_head_is_cut_off_and_takes_no_memory(server: Server) -> None:
    before = resident_bytes(server)
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), timeout=5) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nX-A: ")
        with suppress(OSError):
            sent = 0
            while sent < 512:
                connection.sendall(b"a" * MEGABYTE)
                sent += 1
    assert sent < 64
    assert resident_bytes(server) - before < 64 * MEGABYTE


def test_a_crash_leaves_no_memory_in_a_file(server: Server) -> None:
    limits = Path(f"/proc/{server.process.pid}/limits").read_text()
    (line,) = [line for line in limits.splitlines() if line.startswith("Max core file size")]
    assert line.split()[4:6] == ["0", "0"]
