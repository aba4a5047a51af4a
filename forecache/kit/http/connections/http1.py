"""One connection of a client that speaks HTTP/1.1 or 1.0."""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic
from typing import Any, Protocol

from forecache.kit.http.connections.call import HttpCall
from forecache.kit.http.connections.heads import CONTINUE, refusal_response, response_head
from forecache.kit.http.connections.requests import InvalidRequestError, RequestParser
from forecache.kit.http.connections.socket_wait import SocketWaitEstimator

logger = logging.getLogger("forecache.reader")
_MOST_UNREAD = 64 * 1024
"""Bytes of a body, and of answers that the client has not taken, above which no more is read of a connection."""
_CLOSE = ("connection", "close")
_JOINED_BYTES = 64 * 1024
"""A longer body is sent by a call of its own, which costs less than a copy of it."""
_AT_ONCE = 16
"""Most requests of one connection that are answered before the loop serves other connections."""
_LINGER_S = 1.0
"""After a request was answered before its body was read, the rest of the body is read for so long. If the connection
were closed at once, it would be reset and the client would lose the answer."""

Handle = Callable[[HttpCall], Awaitable[None] | None]
"""Handles a call: answers it at once, or returns what has to be awaited for that."""


class ConnectionRegistry(Protocol):
    """The connections of a worker, as each of them sees it."""

    turns: SocketWaitEstimator
    is_ending: bool
    waited_ns: int

    def add_connection(self, connection: "Http1Connection") -> None: ...
    def remove_connection(self, connection: "Http1Connection") -> None: ...


class Http1Connection(asyncio.Protocol):
    """Reads requests and answers them one after the other, in their order.

    Attributes:
        heard_at: `monotonic` when the client last sent something, or read a part of a long answer.
        peer: The client's address.
    """

    def __init__(self, handle: Handle, register: ConnectionRegistry, loop: asyncio.AbstractEventLoop) -> None:
        self._handle, self._register, self._loop = handle, register, loop
        self._requests = RequestParser(self)
        self._waiting = self._requests.come
        self._transport: Any = None
        self._socket = -1
        self._current: HttpCall | None = None
        self._refused: InvalidRequestError | None = None
        self._task: asyncio.Task[None] | None = None
        self._ends = self._is_paused = self._is_full = self._is_running = False
        self.heard_at = monotonic()
        self.peer = ""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._socket = transport.get_extra_info("socket").fileno()
        peer = transport.get_extra_info("peername")
        self.peer = peer[0] if peer else ""
        self._register.add_connection(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._ends, self._socket = True, -1
        self._register.remove_connection(self)
        if self._requests.arriving is not None:
            self._requests.arriving.note_disconnect()
        self._waiting.clear()

    def eof_received(self) -> bool:
        """The client sends no more; requests that have arrived are still answered."""
        if self._requests.arriving is not None:
            self._requests.arriving.note_disconnect()
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
        self._loop.call_soon(self._resume_handling)

    def data_received(self, data: bytes) -> None:
        self.heard_at = monotonic()
        if self._ends or self._refused is not None:
            return
        now = self._register.turns.note_read()
        try:
            self._requests.feed(data, self.heard_at)
        except InvalidRequestError as refused:
            self._refused = refused
            self._requests.discard_arriving()
            if self._current is not None and self._current.body is None:
                self._current = None  # its body is what is invalid
        if self._waiting:
            turns = self._register.turns
            for call in self._waiting:
                if not call.arrived:
                    call.arrived, call.waited = now, turns.max_wait_ns(now)
                    self._register.waited_ns += turns.mean_wait_ns(now)
        if self._current is None:
            self._handle_waiting()
        self._limit_reading()

    def respond(self, call: HttpCall, status: int, headers: Sequence[tuple[str, str]], body: bytes) -> None:
        """Send the answer of the call that is being handled."""
        if call is not self._current:
            return  # the client has gone
        self._current = None
        is_unread = call is self._requests.arriving
        closes = is_unread or not call.keeps or self._register.is_ending or _CLOSE in headers
        start = response_head(status, headers, len(body), closes=closes, old=call.is_old)
        sent = b"" if call.method == "HEAD" else body
        if len(sent) <= _JOINED_BYTES:
            self._write(start + sent)
        else:
            self._write(start)
            self._write(sent)
        if closes:
            self.close(lingers=is_unread)
        elif not self._is_running:
            self._loop.call_soon(self._resume_handling)

    def resume_body(self, call: HttpCall) -> None:
        """Resume reading: a handler waits for the body of a request."""
        if call.headers.get("expect", "").lower() == "100-continue" and not call.is_old:
            self._write(CONTINUE)
        self._limit_reading()

    def close(self, *, lingers: bool = False) -> None:
        """Close the connection after what was sent.

        Args:
            lingers: The client is still sending.
        """
        self._ends = True
        self._waiting.clear()
        if self._transport.is_closing():
            return
        if lingers and self._transport.can_write_eof():
            self._transport.write_eof()
            self._set_reading(True)
            self._loop.call_later(_LINGER_S, self._transport.close)
        else:
            self._transport.close()

    def abort(self) -> None:
        """Close the connection at once."""
        self._ends = True
        self._transport.abort()

    @property
    def head_since(self) -> float:
        """`monotonic` when an incomplete head of a request began; 0: there is none."""
        return self._requests.head_since

    @property
    def is_idle(self) -> bool:
        """True if no request has begun to arrive or waits for its answer."""
        return self._current is None and not self._waiting and not self.head_since

    @property
    def is_answering(self) -> bool:
        """True if a complete request has not been answered yet."""
        return self._current not in (None, self._requests.arriving) and not self._is_full

    def _handle_waiting(self) -> None:
        """Handle waiting calls, as long as each is answered at once; then refuse an invalid request after them."""
        self._is_running = True
        for _ in range(_AT_ONCE):
            if not self._waiting or self._current is not None or self._ends or self._is_full:
                break
            self._current = self._waiting.popleft()
            self._start_call(self._current)
        else:
            self._loop.call_soon(self._resume_handling)
        self._is_running = False
        if self._refused is not None and self._current is None and not (self._waiting or self._ends):
            self._write(refusal_response(self._refused.status, self._refused.detail))
            self.close(lingers=True)

    def _start_call(self, call: HttpCall) -> None:
        try:
            later = self._handle(call)
        except Exception:  # noqa: BLE001  # logged by `_answer_failure`
            self._answer_failure(call)
            return
        if later is not None:
            self._task = self._loop.create_task(self._await_answer(call, later))

    async def _await_answer(self, call: HttpCall, later: Awaitable[None]) -> None:
        try:
            await later
        except Exception:  # noqa: BLE001  # logged by `_answer_failure`
            self._answer_failure(call)

    def _answer_failure(self, call: HttpCall) -> None:
        logger.exception("%s %s failed.", call.method, call.path[:100])
        if call is self._current:
            self._current = None
            self._write(refusal_response(500, "This is a defect; see the reader's log for the cause."))
            self.close()

    def _resume_handling(self) -> None:
        if self._socket >= 0 and self._current is None:
            self._handle_waiting()
        self._limit_reading()

    def _limit_reading(self) -> None:
        """Pause reading while requests, unread bytes of a body, or unsent answers wait here."""
        arriving = self._requests.arriving
        unread = arriving.unread_bytes if arriving is not None else 0
        behind = len(self._waiting) - (arriving is not None)
        self._set_reading(not self._is_full and unread < _MOST_UNREAD and behind <= 0)

    def _set_reading(self, reads: bool) -> None:
        if reads is self._is_paused and not self._transport.is_closing():
            self._is_paused = not reads
            (self._transport.resume_reading if reads else self._transport.pause_reading)()

    def _write(self, data: bytes) -> None:
        """Send at once what the socket takes: the loop would send it only after handling everything that was read."""
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
