"""Laws of an answer's head: it leaves with what follows it, and never waits for what does not."""

import asyncio
from collections.abc import Callable

from app.joined import Joined

HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"


class Wire(asyncio.Transport):
    """Keeps each packet."""

    def __init__(self) -> None:
        super().__init__()
        self.packets, self.closed = list[bytes](), False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.packets.append(bytes(data))

    def writelines(self, list_of_data: object) -> None:
        assert isinstance(list_of_data, tuple)
        self.packets.append(b"".join(list_of_data))

    def close(self) -> None:
        self.closed = True


def sent(*writes: bytes, then: Callable[[Joined], None] = Joined.flush) -> list[bytes]:
    wire = Wire()
    joined = Joined(wire)
    for data in writes:
        joined.write(data)
    then(joined)
    return wire.packets


def test_a_head_leaves_with_its_body_and_what_follows_leaves_at_once() -> None:
    assert sent(HEAD, b"ok", b"more", b"and more") == [HEAD + b"ok", b"more", b"and more"]
    assert sent(HEAD, b"ok", HEAD, b"ok") == [HEAD + b"ok"] * 2


def test_a_head_with_nothing_behind_it_leaves_at_the_end_or_with_the_connection() -> None:
    assert sent(HEAD) == [HEAD]
    assert sent(HEAD, then=Joined.close) == [HEAD]
    assert sent(then=Joined.flush) == []


def test_who_is_told_to_go_on_does_not_wait() -> None:
    go_on = b"HTTP/1.1 100 Continue\r\n\r\n"
    assert sent(go_on, then=lambda _: None) == [go_on]


def test_an_answer_that_is_whole_leaves_at_once() -> None:
    assert sent(HEAD + b"ok", then=lambda _: None) == [HEAD + b"ok"]
