"""One connection of a client that speaks HTTP/1.1 or 1.0."""

import asyncio
import logging
import os
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic
from typing import Any, Protocol
from urllib.parse import unquote

import httptools

from forecache.reader.connections.call import Call
from forecache.reader.connections.heads import CONTINUE, head, refusal
from forecache.reader.connections.turns import Turns
from forecache.reader.http.limits import MAX_HEAD_BYTES, MAX_HEAD_FIELDS

logger = logging.getLogger("forecache.reader")
_MOST_UNREAD = 64 * 1024
"""Bytes of a body, and of answers that the client has not taken, above which no more is read of a connection."""
_JOINED_BYTES = 64 * 1024
"""A longer body is sent by a call of its own, which costs less than a copy of it."""
_LINGER_S = 1.0
"""What a client still sends of a request that was answered unread is taken for so long: closed at once, the connection
would be reset, and the answer lost with it."""

Handle = Callable[[Call], Awaitable[None] | None]
"""Handles a call: answers it at once, or returns what has to be awaited for that."""


class Register(Protocol):
    """What knows all connections of a worker."""

    turns: Turns
    is_ending: bool
    waited_ns: int

    def opened(self, connection: "Http1") -> None: ...
    def closed(self, connection: "Http1") -> None: ...


class Http1(asyncio.Protocol):
    """Reads requests and answers them one after the other, in their order.

    Attributes:
        heard_at: `monotonic` when the client last sent something, or took something of a long answer.
        head_since: `monotonic` when a request's head began that is not complete yet; 0: there is none.
        peer: The client's address.
    """

    def __init__(self, handle: Handle, register: Register, loop: asyncio.AbstractEventLoop) -> None:
        self._handle, self._register, self._loop = handle, register, loop
        self._parser = httptools.HttpRequestParser(self)
        self._transport: Any = None
        self._socket = -1
        self._fields: dict[str, str] = {}
        self._url, self._num_heads, self._head_read, self._head_bytes, self._num_fields = b"", 0, 0, 0, 0
        self._arriving: Call | None = None
        self._waiting: deque[Call] = deque()
        self._current: Call | None = None
        self._task: asyncio.Task[None] | None = None
        self._ends = self._is_paused = self._is_full = self._is_running = False
        self.heard_at = monotonic()
        self.head_since = 0.0
        self.peer = ""

    # The transport's calls.

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._socket = transport.get_extra_info("socket").fileno()
        peer = transport.get_extra_info("peername")
        self.peer = peer[0] if peer else ""
        self._register.opened(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._ends, self._socket = True, -1
        self._register.closed(self)
        if self._arriving is not None:
            self._arriving.lost()
        self._waiting.clear()

    def eof_received(self) -> bool:
        """The client sends no more: what it has asked for is still answered."""
        if self._arriving is not None:
            self._arriving.lost()
            return False
        last = self._waiting[-1] if self._waiting else self._current
        if last is None:
            return False
        last.keeps = False
        return True

    def pause_writing(self) -> None:
        self._is_full = True

    def resume_writing(self) -> None:
        self._is_full, self.heard_at = False, monotonic()
        self._loop.call_soon(self._go_on)

    def data_received(self, data: bytes) -> None:
        self.heard_at = monotonic()
        if self._ends:
            return
        now = self._register.turns.read()
        num_heads = self._num_heads
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            if self._arriving is None and self._waiting:
                self._waiting[-1].keeps = False  # no other protocol is spoken: this is answered, and that is all
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            self._refuse(cause if isinstance(cause, _Refused) else _Refused(400, "The request cannot be understood."))
            return
        except httptools.HttpParserError as error:
            self._refuse(_Refused(400, f"This is no HTTP request: {error}."))
            return
        if self.head_since and num_heads == self._num_heads:
            self._head_read += len(data)
            if self._head_read > MAX_HEAD_BYTES:
                self._refuse(_large_head())
                return
        if self._waiting:
            turns = self._register.turns
            for call in self._waiting:
                if not call.arrived:
                    call.arrived, call.waited = now, turns.waited(now)
                    self._register.waited_ns += turns.waited_on_average(now)
            if self._current is None:
                self._next()
        self._bound()

    # The parser's calls.

    def on_message_begin(self) -> None:
        self._fields, self._url = {}, b""
        self._head_read = self._head_bytes = self._num_fields = 0
        self.head_since = self.heard_at

    def on_url(self, part: bytes) -> None:
        self._url += part

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value)
        self._num_fields += 1
        if self._head_bytes > MAX_HEAD_BYTES or self._num_fields > MAX_HEAD_FIELDS:
            raise _large_head()
        self._fields.setdefault(name.decode("latin-1").lower(), value.decode("latin-1"))

    def on_headers_complete(self) -> None:
        parser = self._parser
        method = parser.get_method().decode("latin-1")
        path, query = _target(self._url, method)
        call = Call(self, method, path, query, self._fields)
        call.keeps, call.is_old = parser.should_keep_alive(), parser.get_http_version() == "1.0"
        self.head_since = 0.0
        self._num_heads += 1
        self._arriving = call
        self._waiting.append(call)

    def on_body(self, part: bytes) -> None:
        if self._arriving is not None:
            self._arriving.came(part)

    def on_message_complete(self) -> None:
        if self._arriving is not None:
            self._arriving.complete()
            self._arriving = None

    # Answers.

    def respond(self, call: Call, status: int, headers: Sequence[tuple[str, str]], body: bytes) -> None:
        """Send the answer of the call that is being handled."""
        if call is not self._current:
            return  # the client has gone
        self._current = None
        is_unread = call is self._arriving
        closes = is_unread or not call.keeps or self._register.is_ending or _asks_to_close(headers)
        start = head(status, headers, len(body), closes=closes, old=call.is_old)
        if call.method == "HEAD":
            self._write(start)
        elif len(body) <= _JOINED_BYTES:
            self._write(start + body)
        else:
            self._write(start)
            self._write(body)
        if closes:
            self.end(lingers=is_unread)
        elif not self._is_running:
            self._loop.call_soon(self._go_on)

    def wants_body(self, call: Call) -> None:
        """Go on reading: somebody waits for the rest of a request."""
        if call.headers.get("expect", "").lower() == "100-continue" and not call.is_old:
            self._write(CONTINUE)
        self._bound()

    def end(self, *, lingers: bool = False) -> None:
        """Close the connection behind what was sent.

        Args:
            lingers: The client is still sending.
        """
        self._ends = True
        self._waiting.clear()
        if self._transport.is_closing():
            return
        if lingers and self._transport.can_write_eof():
            self._transport.write_eof()
            self._resume(True)
            self._loop.call_later(_LINGER_S, self._transport.close)
        else:
            self._transport.close()

    def abort(self) -> None:
        """Close the connection at once."""
        self._ends = True
        self._transport.abort()

    @property
    def is_idle(self) -> bool:
        """Whether no request is under way."""
        return self._current is None and not self._waiting and not self.head_since

    @property
    def is_answering(self) -> bool:
        """Whether it is this side's turn: a whole request has not been answered."""
        return self._current is not None and self._current is not self._arriving and not self._is_full

    def _next(self) -> None:
        """Handle the calls that wait, as long as each is answered at once."""
        self._is_running = True
        try:
            while self._waiting and self._current is None and not (self._ends or self._is_full):
                call = self._current = self._waiting.popleft()
                self._start(call)
        finally:
            self._is_running = False

    def _start(self, call: Call) -> None:
        try:
            later = self._handle(call)
        except Exception:  # noqa: BLE001  # told by `_failed`
            self._failed(call)
            return
        if later is not None:
            self._task = self._loop.create_task(self._awaited(call, later))

    async def _awaited(self, call: Call, later: Awaitable[None]) -> None:
        try:
            await later
        except Exception:  # noqa: BLE001  # told by `_failed`
            self._failed(call)

    def _failed(self, call: Call) -> None:
        logger.exception("%s %s failed.", call.method, call.path[:100])
        if call is self._current:
            self._current = None
            self._write(refusal(500, "This is a defect; see the reader's log for the cause."))
            self.end()

    def _go_on(self) -> None:
        if self._socket >= 0 and self._current is None and self._waiting:
            self._next()
        self._bound()

    def _refuse(self, refused: "_Refused") -> None:
        self._current = None
        self._write(refusal(refused.status, refused.detail))
        self.end(lingers=True)

    def _bound(self) -> None:
        """Read on only while little waits here."""
        arriving = self._arriving
        unread = arriving.unread if arriving is not None else 0
        behind = len(self._waiting) - (arriving is not None)
        self._resume(not self._is_full and unread < _MOST_UNREAD and behind <= 0)

    def _resume(self, reads: bool) -> None:
        if reads is self._is_paused and not self._transport.is_closing():
            self._is_paused = not reads
            (self._transport.resume_reading if reads else self._transport.pause_reading)()

    def _write(self, data: bytes) -> None:
        """Send at once what the socket takes: the loop would send it only once all that was read is handled."""
        transport = self._transport
        if self._socket < 0 or transport.is_closing():
            return
        if not transport.get_write_buffer_size():
            try:
                sent = os.write(self._socket, data)
            except BlockingIOError:
                sent = 0
            except OSError:
                transport.abort()
                return
            if sent == len(data):
                return
            data = data[sent:]
        transport.write(data)


class _Refused(Exception):
    """What is no request that could be handled."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail


def _large_head() -> _Refused:
    return _Refused(431, f"The request's head is larger than {MAX_HEAD_BYTES} bytes or {MAX_HEAD_FIELDS} fields.")


def _asks_to_close(headers: Sequence[tuple[str, str]]) -> bool:
    return ("connection", "close") in headers


def _target(url: bytes, method: str) -> tuple[str, str]:
    """Path and query of a request's target; of an absolute one without what names the server."""
    if url[:1] != b"/" and url != b"*" and method != "CONNECT":
        try:
            parsed = httptools.parse_url(url)
        except httptools.HttpParserInvalidURLError:
            raise _Refused(400, "The request's target is no path.") from None
        path, query = parsed.path or b"/", parsed.query or b""
    else:
        path, _, query = url.partition(b"#")[0].partition(b"?")
    try:
        text = path.decode()
    except UnicodeDecodeError:
        raise _Refused(400, "The request's target has bytes that are no UTF-8; send them percent-encoded.") from None
    return unquote(text, errors="replace") if "%" in text else text, query.decode("latin-1")
