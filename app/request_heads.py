"""What stands before, between and behind the bytes of a request's body: never more than some, and never mixed up.

uvicorn waits for the end of a header line however long it gets, and takes what stands behind a chunked body for
headers of the request: an `Authorization` or `X-Forwarded-For` that no proxy has seen. Of two headers it takes the
first, where a proxy may have looked at the second. Behind a head with `Upgrade` it takes a body for the next request.
Knows HTTP/1.1 on the wire; knows no application.
"""

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_UNREAD_BYTES = 2**16  # a request line with all headers, the extensions of a chunk, or trailers


class BoundedHead(HttpToolsProtocol):
    """uvicorn's protocol, for heads of at most 64 KiB; trailers (RFC 9110 §6.5) are read and dropped."""

    _unread, _in_head = 0, True

    def data_received(self, data: bytes) -> None:
        """Bytes, of which those that are neither body nor the end of a head are counted."""
        self._unread += len(data)
        self._unset_keepalive_if_required()
        try:
            self._parse(data)
        except HttpParserError:
            self.logger.warning("Invalid HTTP request received.")
            self.send_400_response("Invalid HTTP request received.")
        if self._unread > MAX_UNREAD_BYTES and not self.transport.is_closing():
            self.send_400_response(f"headers take more than {MAX_UNREAD_BYTES} bytes")

    def _parse(self, data: bytes | memoryview) -> None:
        """Read heads with `Upgrade` once more without: a server need not hear it (RFC 9110 §7.8), but httptools does.

        It stops behind such a head, whatever length that declares for a body.
        """
        while data:
            try:
                self.parser.feed_data(data)
                return
            except HttpParserUpgrade as upgrade:
                data = memoryview(data)[upgrade.args[0] :]
            head = self._plain_head()
            self.parser = HttpRequestParser(self)  # the old one reads nothing more behind `Connection: close`
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
            self.parser.feed_data(head)

    def _plain_head(self) -> bytes:
        version = self.parser.get_http_version().encode()
        headers = [b"%b: %b\r\n" % header for header in self.headers if header[0] != b"upgrade"]
        return b"".join([b"%b %b HTTP/%b\r\n" % (self.parser.get_method(), self.url, version), *headers, b"\r\n"])

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
        if self.parser.get_method() == b"CONNECT":  # to httptools an upgrade, whatever the headers say
            self.send_400_response("this server is no proxy")
            raise ValueError("what follows is another protocol")
        names = [name for name, _ in self.headers]
        hosts = names.count(b"host")
        if names.count(b"authorization") > 1 or hosts > 1 or (not hosts and self.parser.get_http_version() != "1.0"):
            self.send_400_response("a request has one Host (RFC 9112, 3.2) and one Authorization at most")
            raise ValueError("the head can be read in two ways")

    def on_headers_complete(self) -> None:
        """A head has ended."""
        if not self._comes_again():
            self.on_head()

    def on_head(self) -> None:
        """A head has ended that is not read once more."""
        self._unread, self._in_head = 0, False
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of a body."""
        self._unread = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request has ended, or httptools thinks so."""
        if not self._comes_again():
            self.on_request()

    def on_request(self) -> None:
        """A request has ended."""
        self._unread = 0
        super().on_message_complete()

    def _comes_again(self) -> bool:
        return self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"
