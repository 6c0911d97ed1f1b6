"""A transport on which the head of an answer waits for what follows it, so that both leave in one packet.

uvicorn writes them one after the other, and uvloop hands each to the kernel at once: twice the system calls, and the
caller is woken for a head that says nothing yet. Knows HTTP/1.1 on the wire; knows no application.
"""

import asyncio

STATUS, BLANK_LINE = b"HTTP/1.1 ", b"\r\n\r\n"
NO_ANSWER = b"HTTP/1.1 1"  # 100 Continue: the caller waits for it with its body


class Joined(asyncio.Transport):
    """What uvicorn asks of a transport that it answers on."""

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__()
        self._transport, self._head = transport, b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send, but for a head with nothing behind it yet."""
        if self._head:
            self._transport.writelines((self._head, data))
            self._head = b""
        elif _is_head(data):
            self._head = bytes(data)
        else:
            self._transport.write(data)

    def flush(self) -> None:
        """Nothing follows the head."""
        if self._head:
            self.write(b"")

    def close(self) -> None:
        """Close behind what was written."""
        self.flush()
        self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    def is_closing(self) -> bool:
        """Whether it is closed, or about to be."""
        return self._transport.is_closing()

    def get_write_buffer_size(self) -> int:
        """How many bytes the caller has not taken; a head that waits is none of them."""
        return self._transport.get_write_buffer_size()


def _is_head(data: bytes | bytearray | memoryview) -> bool:
    return (
        isinstance(data, bytes)
        and data.startswith(STATUS)
        and data.endswith(BLANK_LINE)
        and not data.startswith(NO_ANSWER)
    )
