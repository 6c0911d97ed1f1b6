"""The client of `sdb evaluate` before servers that answer in every wrong way."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import numpy as np
import pytest
import torch

from app.errors import RemoteError
from app.remote import RemoteModel, under_attack

LOGITS = [0.0, 1.0]
CARD = {
    "name": "m",
    "version": "1",
    "classes": ["a", "b"],
    "input": {"height": 32, "width": 32},
    "guard": ["sdb"],
    "tiers": ["public", "distill"],
}


@dataclass(frozen=True)
class Asked:
    """A request as it arrived."""

    method: str
    credential: str | None
    body: bytes

    @property
    def images(self) -> int:
        """How many images it holds."""
        shape = re.search(rb'"shape":\[(\d+)', self.body)
        assert shape
        return int(shape[1])


@dataclass(frozen=True)
class Said:
    """What is said to it."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


Answer = Callable[[Asked], Said]


def said(document: object, status: int = 200, **headers: str) -> Said:
    return Said(status, json.dumps(document).encode(), headers)


def inference(rows: list[list[float]] | list[float], **changed: object) -> Said:
    tensor = np.array(rows, np.float32)
    output = {
        "name": "logits",
        "datatype": "FP32",
        "shape": tensor.shape,
        "parameters": {"binary_data_size": tensor.nbytes},
    }
    document = {
        "model_name": "m",
        "model_version": "1",
        "parameters": {"tier": "public"},
        "outputs": [output | changed],
    }
    head = json.dumps(document).encode()
    return Said(200, head + tensor.tobytes(), {"Inference_Header_Content_Length": str(len(head))})


def model(asked: Asked, logits: list[float]) -> Said:
    """A server as it should be, with one model that says the same of every image."""
    return said(CARD) if asked.method == "GET" else inference([logits] * asked.images)


@dataclass
class Canned:
    """A real server whose answers a test may change while it runs."""

    url: str
    answer: Answer
    asked: list[Asked] = field(default_factory=list)


@pytest.fixture
def canned() -> Iterator[Canned]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            server.asked.append(Asked(self.command, self.headers.get("Authorization"), body))
            answer = server.answer(server.asked[-1])
            self.send_response(answer.status)
            for name, value in {**answer.headers, "Content-Length": str(len(answer.body))}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(answer.body)

        do_POST = do_GET  # noqa: N815 - http.server's name

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        server = Canned(f"http://127.0.0.1:{listener.server_port}", partial(model, logits=LOGITS))
        thread = Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        listener.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (Said(302, headers={"Location": "/elsewhere"}), "status 302"),
        (Said(404, b'["error"]'), "status 404"),
        (Said(200, b"<html>"), "ModelCard"),
        (said({"name": "m"}), "version"),
        (said({**CARD, "input": {"height": 32, "width": "wide"}}), "input.width"),
        (Said(200, b"no gzip", {"Content-Encoding": "gzip"}), "does not answer"),
        (said({"code": "unknown-model", "detail": "no such"}, 404), "unknown-model: no such"),
    ],
)
def test_what_is_no_card_is_a_remote_error_at_once(canned: Canned, answer: Said, why: str) -> None:
    canned.answer = lambda _: answer
    with pytest.raises(RemoteError, match=why):
        RemoteModel(canned.url, "m", None).card()
    assert len(canned.asked) == 1


@pytest.mark.parametrize(
    "url", ["", "localhost:8000", "ftp://box", "http://box:port", "http://[::1", "http://.box", "http://b\nox"]
)
def test_what_is_no_address_is_a_remote_error(url: str) -> None:
    with pytest.raises(RemoteError, match="does not answer"):
        RemoteModel(url, "m", None).card()


@pytest.mark.parametrize(
    "answer",
    [inference([LOGITS] * 2), inference([LOGITS] * 3, name="scores"), inference([0.0] * 3), said({"outputs": []})],
)
def test_answers_that_are_not_one_per_image_are_a_remote_error(canned: Canned, answer: Said) -> None:
    canned.answer = lambda _: answer
    with pytest.raises(RemoteError):
        RemoteModel(canned.url, "m", None).query(torch.zeros(3, 3, 8, 8, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("shape", "requests"),
    [((250, 3, 8, 8), [100, 100, 50]), ((5, 3, 1024, 1024), [2, 2, 1]), ((2, 3, 2048, 2048), [1, 1])],
)
def test_no_request_holds_more_images_or_pixels_than_a_server_takes(
    canned: Canned, shape: tuple[int, ...], requests: list[int]
) -> None:
    answers = RemoteModel(canned.url, "m", None).query(torch.zeros(shape, dtype=torch.uint8))
    assert answers.shape == (shape[0], 2)
    assert [asked.images for asked in canned.asked] == requests


def test_a_closed_public_door_is_found_before_anything_is_attacked(canned: Canned) -> None:
    closed = said({"code": "invalid-credential", "detail": "the credential is not valid"}, 401)
    canned.answer = lambda asked: model(asked, LOGITS) if asked.credential else closed
    with pytest.raises(RemoteError, match="without credential: invalid-credential"):
        under_attack(canned.url, "m", "key")


def test_the_public_door_is_asked_without_the_credential(canned: Canned) -> None:
    subject = under_attack(canned.url, "m", "key")
    assert [(asked.method, asked.credential) for asked in canned.asked] == [
        ("GET", None),
        ("GET", "Bearer key"),
        ("POST", None),
    ]
    assert subject.doors.authorised is not None


def test_a_retrained_model_behind_the_same_url_has_another_identity(canned: Canned) -> None:
    def identity(*logits: float) -> dict[str, object]:
        canned.answer = partial(model, logits=list(logits))
        return under_attack(canned.url, "m", None).identity

    first = identity(0.0, 1.0)
    assert first["url"] == canned.url
    assert first == identity(-0.001, 1.001), "an answer's last digits depend on the batch it was computed in"
    assert first != identity(0.0, 1.2)
