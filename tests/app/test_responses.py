"""Small answers leave whole, large ones in parts that are made when they can leave."""

import asyncio
from collections.abc import Iterator

import numpy as np
import orjson
import pytest
from numpy.typing import NDArray
from starlette.responses import Response
from starlette.types import Message

from app.answers import Answer, as_json, probabilities_of
from app.responses import PART_BYTES, WHOLE_BYTES, response
from models.bundles import GuardSpec, InputSpec, Manifest
from models.views import View

PIECE = 10_000


def answer_of(logits: NDArray[np.float32], probabilities: NDArray[np.float32]) -> Answer:
    """The public answer of a model called "wide" that has as many classes as the logits [N, K]."""
    manifest = Manifest(
        name="wide",
        architecture="cifar_resnet8",
        classes=tuple(f"class {number}" for number in range(logits.shape[1])),
        input=InputSpec(height=32, width=32),
        guard=GuardSpec(secret_fingerprint="0" * 16),
    )
    return Answer(
        manifest=manifest,
        keyed=False,
        logits=logits,
        probabilities=probabilities,
        views=[[View(4, 4)]] * len(logits),
        budget=None,
        charged=False,
        standings=(),
    )


class Reader:
    """The server's side of a connection: keeps what is sent, and can be told to take no more."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.reading = asyncio.Event()
        self.reading.set()

    async def send(self, message: Message) -> None:
        await self.reading.wait()
        self.messages.append(message)

    async def receive(self) -> Message:
        await asyncio.Event().wait()
        raise AssertionError("the caller stays")

    async def read(self, answer: Response) -> bytes:
        """All of its body."""
        await answer({"type": "http", "method": "POST"}, self.receive, self.send)
        return b"".join(self.parts)

    @property
    def parts(self) -> list[bytes]:
        return [message["body"] for message in self.messages[1:]]

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.messages[0]["headers"])


def pieces(count: int, made: list[int]) -> Iterator[bytes]:
    for number in range(count):
        made.append(number)
        yield bytes([number % 251]) * PIECE


@pytest.mark.parametrize("count", [0, 1, WHOLE_BYTES // PIECE])
async def test_a_small_answer_leaves_whole_and_says_its_length(count: int) -> None:
    reader = Reader()
    body = await reader.read(response(pieces(count, []), "application/json", {"A": "b"}))
    assert (body, len(reader.parts)) == (b"".join(pieces(count, [])), 1)
    assert reader.headers[b"content-length"] == str(count * PIECE).encode()
    assert reader.headers[b"a"] == b"b"


@pytest.mark.parametrize("length", [None, 300 * PIECE])
async def test_a_large_answer_leaves_in_parts_that_are_bounded_and_all_of_it(length: int | None) -> None:
    reader = Reader()
    body = await reader.read(response(pieces(300, []), "application/json", {"A": "b"}, length))
    assert body == b"".join(pieces(300, []))
    assert len(reader.parts) > 5
    assert max(map(len, reader.parts)) < PART_BYTES + PIECE
    assert reader.headers.get(b"content-length") == (None if length is None else str(length).encode())
    assert reader.headers[b"a"] == b"b"


async def test_one_large_piece_leaves_in_parts_too() -> None:
    reader, tensor = Reader(), np.arange(2**20, dtype=np.float32)
    body = await reader.read(response([b"{}", tensor.view(np.uint8).data], "x/y", {}, 2 + tensor.nbytes))
    assert body == b"{}" + tensor.tobytes()
    assert max(map(len, reader.parts)) <= 2 * PART_BYTES


async def test_what_a_stalled_reader_has_not_taken_is_not_made_and_nobody_waits_for_it() -> None:
    reader, made = Reader(), list[int]()
    reader.reading.clear()
    reading = asyncio.create_task(reader.read(response(pieces(100_000, made), "x/y", {})))
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(made) * PIECE < WHOLE_BYTES + 4 * PART_BYTES
    reading.cancel()


async def test_between_two_parts_everybody_else_gets_a_turn() -> None:
    reader, turns = Reader(), 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    beside = asyncio.create_task(other())
    await reader.read(response(pieces(1000, []), "x/y", {}))
    beside.cancel()
    assert turns >= len(reader.parts) - 2


@pytest.mark.parametrize("count", [1, 3, 200])
async def test_a_native_answer_is_json_with_exactly_the_floats_of_the_model(count: int) -> None:
    logits = (np.random.default_rng(count).normal(size=(count, 300)) * 9).astype(np.float32)
    answer = answer_of(logits, probabilities_of(logits, 2.0))
    body = orjson.loads(await Reader().read(response(as_json(answer, 7, "mine"), "application/json", {})))
    assert [body[field] for field in ("model", "tier", "request_id")] == ["wide", "public", "mine"]
    assert len(body["predictions"]) == count
    for row, prediction in enumerate(body["predictions"]):
        assert np.array_equal(np.array(prediction["logits"], np.float32), logits[row])
        assert np.array_equal(np.array(prediction["probabilities"], np.float32), answer.probabilities[row])
        assert [entry["index"] for entry in prediction["top"]] == np.argsort(-logits[row], kind="stable")[:7].tolist()
        assert prediction["label"] == f"class {logits[row].argmax()}"
