"""What stands before, between and behind the bytes of a request's body: never more than some, and never mixed up.

uvicorn waits for the end of a header line however long it gets, and takes what stands behind a chunked body for
headers of the request: an `Authorization` or `X-Forwarded-For` that no proxy has seen. Of two headers it takes the
first, where a proxy may have looked at the second. Knows HTTP/1.1 on the wire; knows no application.
"""

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_UNREAD_BYTES = 2**16  # a request line with all headers, the extensions of a chunk, or trailers


class BoundedHead(HttpToolsProtocol):
    """uvicorn's protocol, for heads of at most 64 KiB; trailers (RFC 9110 §6.5) are read and dropped."""

    _unread, _in_head = 0, True

    def data_received(self, data: bytes) -> None:
        """Bytes, of which those that are neither body nor the end of a head are counted."""
        self._unread += len(data)
        super().data_received(data)
        if self._unread > MAX_UNREAD_BYTES and not self.transport.is_closing():
            self.send_400_response(f"headers take more than {MAX_UNREAD_BYTES} bytes")

    def on_message_begin(self) -> None:
        """A request begins."""
        self._in_head = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or behind a body a trailer."""
        if self._in_head:
            super().on_header(name, value)

    def judge_head(self) -> None:
        """Refuse a head that can be read in two ways; raises ValueError, so that nothing behind it is read."""
        names = [name for name, _ in self.headers]
        hosts = names.count(b"host")
        if names.count(b"authorization") > 1 or hosts > 1 or (not hosts and self.parser.get_http_version() != "1.0"):
            self.send_400_response("a request has one Host (RFC 9112, 3.2) and one Authorization at most")
            raise ValueError("the head can be read in two ways")

    def on_headers_complete(self) -> None:
        """A head has ended."""
        self._unread, self._in_head = 0, False
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of a body."""
        self._unread = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request has ended."""
        self._unread = 0
        super().on_message_complete()
