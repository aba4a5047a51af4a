"""One connection of a client that speaks HTTP/1.1 or 1.0."""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from math import floor
from time import monotonic, perf_counter_ns, time
from typing import Any, Protocol

import orjson

from forecache.kit.http.call import HttpCall
from forecache.kit.http.load_shedding import BUSY_RESPONSE, ConnectionShare, LoadShedder
from forecache.kit.http.request_parser import InvalidRequestError, RequestParser

_STATUS = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
_WITHOUT_BODY = frozenset({204, 304})
_CLOSE_LINE = b"connection: close\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class _DateField:
    line, since, until = b"", 0, 0

    @classmethod
    def now(cls) -> bytes:
        now = time()
        if not cls.since <= now < cls.until:  # a clock that was ahead is set back
            cls.line = b"date: " + formatdate(now, usegmt=True).encode() + b"\r\n"
            cls.since, cls.until = floor(now), floor(now) + 1
        return cls.line


def response_head(status: int, headers: Sequence[tuple[str, str]], length: int, *, closes: bool, old: bool) -> bytes:
    """The head of a response; `old` clients speak HTTP/1.0 and keep a connection only if the response says so."""
    parts = [_STATUS[status], _known(headers) if type(headers) is tuple else _encode_fields(headers)]
    if status not in _WITHOUT_BODY:
        parts.append(b"content-length: %d\r\n" % length)
    if closes:
        parts.append(_CLOSE_LINE)
    elif old:
        parts.append(b"connection: keep-alive\r\n")
    parts += (_DateField.now(), b"\r\n")
    return b"".join(parts)


def _encode_fields(headers: Sequence[tuple[str, str]]) -> bytes:
    return b"".join(b"%b: %b\r\n" % (name.encode("latin-1"), value.encode("latin-1")) for name, value in headers)


_known = lru_cache(256)(_encode_fields)
"""Fields in a tuple are constants, or those of a version, which many responses share."""


def refusal_response(status: int, detail: str) -> bytes:
    """The whole response to an invalid request; the connection is closed after it."""
    body = orjson.dumps({
        "type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail,
    })  # fmt: skip
    fields = [("content-type", "application/problem+json"), ("cache-control", "no-store")]
    return response_head(status, fields, len(body), closes=True, old=False) + body


_AT_ONCE_NS = 50_000
"""A loop that reads again so soon after the end of an iteration was not asleep in between."""
_MOST_READING_NS, _FEW = 25_000_000, 64
"""Time of an iteration after which what it has still to read comes too late; after a pause of the machine, in which it
read a few times only, the time says nothing."""


class SocketWaitEstimator:
    """Times the iterations of a loop in which something is read."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._began = self._ended = self._before = self._num_reads = 0
        self._is_open = False

    def note_read(self) -> int:
        """Note that something is read now; returns the time, in nanoseconds of `perf_counter_ns`."""
        now = perf_counter_ns()
        if not self._is_open:
            self._is_open = True
            self._before = now - self._began if now - self._ended < _AT_ONCE_NS else 0
            self._began, self._num_reads = now, 0
            self._loop.call_soon(self._end_iteration)
        self._num_reads += 1
        return now

    def is_behind(self, now: int) -> bool:
        """Return True if what is read now in this iteration has waited too long for an answer in time."""
        return now - self._began > _MOST_READING_NS and self._num_reads > _FEW

    def max_wait_ns(self, now: int) -> int:
        """Longest time, in nanoseconds, that data read in this iteration can have waited."""
        return self._before + now - self._began

    def mean_wait_ns(self, now: int) -> int:
        """Mean of that time, if data arrives at any moment since the loop read before."""
        return self._before // 2 + now - self._began

    def _end_iteration(self) -> None:
        self._is_open, self._ended = False, perf_counter_ns()


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
    shedder: LoadShedder
    is_ending: bool
    waited_ns: int

    def add_connection(self, connection: "Http1Connection") -> None: ...
    def remove_connection(self, connection: "Http1Connection") -> None: ...


class Http1Connection(asyncio.Protocol):
    """Reads requests and answers them one after the other, in their order."""

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
        self._share = ConnectionShare()
        # When the client last sent something, or read a part of a long answer.
        self.heard_at = self._began = monotonic()
        self.peer = ""  # the client's address

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
        turns, shedder = self._register.turns, self._register.shedder
        now = turns.note_read()
        is_behind = turns.is_behind(now)
        judged = "accept"
        if (is_behind or now < shedder.active_until) and self._begins_request:
            waited_ns = turns.max_wait_ns(now)
            judged = shedder.judge(data, now, self._share, waited_ns=waited_ns, is_behind=is_behind)
            if judged == "refuse":
                self._write(BUSY_RESPONSE)
                return
        try:
            self._requests.feed(data, self.heard_at)
        except InvalidRequestError as refused:
            self._refused = refused
            self._requests.discard_arriving()
            if self._current is not None and self._current.body is None:
                self._current = None  # its body is what is invalid
        if self._waiting:
            for call in self._waiting:
                call.is_surplus = judged == "surplus"
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
        """Close the connection after what was sent; it `lingers` while the client is still sending."""
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
        self._ends = True
        self._transport.abort()

    @property
    def head_since(self) -> float:
        """`monotonic` when an incomplete head of a request began; 0: there is none."""
        return self._requests.head_since

    @property
    def is_new(self) -> bool:
        """True if the client has sent nothing yet."""
        return self.heard_at == self._began

    @property
    def is_idle(self) -> bool:
        """True if no request has begun to arrive or waits for its answer."""
        return self._current is None and not self._waiting and not self.head_since

    @property
    def _begins_request(self) -> bool:
        """True if what is read next begins a request, which may be refused with the connection left open."""
        return self.is_idle and not self._is_full and not self._register.is_ending

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
