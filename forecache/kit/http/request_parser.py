"""Parsing of the bytes of a connection into requests."""

from collections import deque
from typing import TYPE_CHECKING
from urllib.parse import unquote

import httptools

from forecache.kit.http.call import MAX_HEAD_BYTES, MAX_HEAD_FIELDS, HttpCall

if TYPE_CHECKING:
    from forecache.kit.http.http1 import Http1Connection


class InvalidRequestError(Exception):
    """The client sent no valid request; nothing more is read of its connection."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail


class RequestParser:
    """Parses what a client sends; llhttp, which does the work, calls the methods that begin with `on_`."""

    def __init__(self, connection: "Http1Connection") -> None:
        self._connection = connection
        self._parser = httptools.HttpRequestParser(self)
        self._fields: dict[str, str] = {}
        self._url, self._now = b"", 0.0
        self._num_heads = self._head_read = self._head_bytes = self._num_fields = 0
        self.come: deque[HttpCall] = deque()  # whose heads have been read; the connection removes what it handles
        self.arriving: HttpCall | None = None  # the call whose body is not complete yet
        self.head_since = 0.0  # `monotonic` when an incomplete head began; 0: there is none

    def feed(self, data: bytes, now: float) -> None:
        """Parse bytes that have arrived at `now` (`monotonic`); raises InvalidRequestError if they are no request."""
        num_heads, self._now = self._num_heads, now
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            if self.arriving is None and self.come:
                self.come[-1].keeps = False  # no other protocol is supported: answer this request, then close
        except httptools.HttpParserCallbackError as error:
            if isinstance(error.__context__, InvalidRequestError):
                raise error.__context__ from None
            raise
        except httptools.HttpParserError as error:
            raise InvalidRequestError(400, f"This is no HTTP request: {error}.") from None
        if self.head_since and num_heads == self._num_heads:
            self._head_read += len(data)
            if self._head_read > MAX_HEAD_BYTES:
                raise _large_head_error()

    def discard_arriving(self) -> None:
        if self.arriving is not None:
            self.arriving.note_disconnect()
            if self.arriving in self.come:
                self.come.remove(self.arriving)
            self.arriving = None

    def on_message_begin(self) -> None:
        self._fields, self._url = {}, b""
        self._head_read = self._head_bytes = self._num_fields = 0
        self.head_since = self._now

    def on_url(self, part: bytes) -> None:
        self._url += part

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value)
        self._num_fields += 1
        if self._head_bytes > MAX_HEAD_BYTES or self._num_fields > MAX_HEAD_FIELDS:
            raise _large_head_error()
        self._fields.setdefault(name.decode("latin-1").lower(), value.decode("latin-1"))

    def on_headers_complete(self) -> None:
        parser = self._parser
        method = parser.get_method().decode("latin-1")
        path, query = _parse_target(self._url, method)
        call = HttpCall(self._connection, method, path, query, self._fields)
        call.keeps, call.is_old = parser.should_keep_alive(), parser.get_http_version() == "1.0"
        self.head_since = 0.0
        self._num_heads += 1
        self.arriving = call
        self.come.append(call)

    def on_body(self, part: bytes) -> None:
        if self.arriving is not None:
            self.arriving.add_chunk(part)

    def on_message_complete(self) -> None:
        if self.arriving is not None:
            self.arriving.complete_body()
            self.arriving = None


def _large_head_error() -> InvalidRequestError:
    return InvalidRequestError(
        431, f"The request's head is larger than {MAX_HEAD_BYTES} bytes or {MAX_HEAD_FIELDS} fields."
    )


def _parse_target(url: bytes, method: str) -> tuple[str, str]:
    """Path and query of a request's target; scheme and host of an absolute one are dropped."""
    if url[:1] != b"/" and url != b"*" and method != "CONNECT":
        try:
            parsed = httptools.parse_url(url)
        except httptools.HttpParserInvalidURLError:
            raise InvalidRequestError(400, "The request's target is no path.") from None
        path, query = parsed.path or b"/", parsed.query or b""
    else:
        path, _, query = url.partition(b"#")[0].partition(b"?")
    try:
        text = path.decode()
    except UnicodeDecodeError:
        raise InvalidRequestError(
            400, "The request's target has bytes that are no UTF-8; send them percent-encoded."
        ) from None
    return unquote(text, errors="replace") if "%" in text else text, query.decode("latin-1")
