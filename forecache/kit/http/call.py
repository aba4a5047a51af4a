"""A request as it arrives, the way to answer it, and limits: of its path, its body, and the memory of all bodies."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from forecache.kit.http import problems
from forecache.kit.http.problems import Problem

if TYPE_CHECKING:
    from forecache.kit.http.http1 import Http1Connection


MAX_PATH_BYTES = 4096
"""Longest path and longest query; a key has at most 511 bytes, three times as many when percent-encoded."""

MAX_HEAD_BYTES = 16 * 1024
"""Largest request line and header fields together; more are refused with 431."""
MAX_HEAD_FIELDS = 100


class BodyMemory:
    """A limit on the memory of all request bodies in a worker: thousands of connections may each send one."""

    def __init__(self, limit_bytes: int) -> None:
        self.free_bytes = limit_bytes

    def reserve(self, size_bytes: int) -> None:
        """Reserve memory, which `release` returns; raises a `Problem` (503) if too little is left."""
        self.check(size_bytes)
        self.free_bytes -= size_bytes

    def check(self, size_bytes: int) -> None:
        """Raise a `Problem`, 503, if so much could not be reserved now."""
        if size_bytes > self.free_bytes:
            detail = "The bodies of other requests take all the memory for bodies; ask again in a second."
            raise Problem(problems.OVERLOADED, detail, headers=[("retry-after", "1"), ("connection", "close")])

    def release(self, size_bytes: int) -> None:
        self.free_bytes += size_bytes


def too_large_problem(limit_bytes: int) -> Problem:
    detail = f"The body is larger than {limit_bytes} bytes; split the request."
    return Problem(problems.TOO_LARGE, detail, headers=[("connection", "close")])


class ClientGone(Exception):
    """The client closed the connection before its request was complete; there is nobody to answer."""


class HttpCall:
    """One request of a connection.

    `path` is percent-decoded, and bytes that are no UTF-8 are replaced. `headers` are by lower-case name; of a repeated
    field they have the first value.
    """

    __slots__ = (
        "method", "path", "query_string", "headers", "body", "arrived", "waited", "is_surplus", "keeps", "is_old",
        "_connection", "_chunks", "_size", "_reading",
    )  # fmt: skip

    def __init__(
        self, connection: "Http1Connection", method: str, path: str, query: str, headers: dict[str, str]
    ) -> None:
        self._connection = connection
        self.method, self.path, self.query_string, self.headers = method, path, query, headers
        self.body: bytes | None = None  # all of it, once it is there
        self.arrived = 0  # `perf_counter_ns` when its head was read
        self.waited = 0  # longest time that it may have waited in the socket before, in nanoseconds
        self.is_surplus = False  # under overload, work for it is to cost little
        self.keeps, self.is_old = True, False
        self._chunks: list[bytes] = []
        self._size = 0
        self._reading: _BodyReader | None = None

    def respond(self, status: int, headers: Sequence[tuple[str, str]], body: bytes = b"") -> None:
        """Send the answer; once for each call. Does nothing if the client has disconnected."""
        self._connection.respond(self, status, headers, body)

    def whole_body(self, limit_bytes: int, memory: BodyMemory) -> bytes | None:
        """Return the body, None if incomplete; raises a `Problem` if it is too large, or there is no memory for it."""
        body = self.body
        if body is not None:
            if len(body) > limit_bytes:
                raise too_large_problem(limit_bytes)
            memory.check(len(body))
        return body

    async def read_body(self, limit_bytes: int, memory: BodyMemory, timeout_s: float) -> bytes:
        """Wait for the whole body and return it.

        Raises a `Problem` if it is larger than `limit_bytes` (refused unread if the client sends its length), there is
        no memory for it, or it has not arrived after `timeout_s`; `ClientGone` if the client closed the connection
        first.
        """
        if (body := self.whole_body(limit_bytes, memory)) is not None:
            return body
        length = self.headers.get("content-length", "")
        if length.isdecimal() and int(length) > limit_bytes:
            raise too_large_problem(limit_bytes)
        loop = asyncio.get_running_loop()
        self._reading = reading = _BodyReader(loop.create_future(), limit_bytes, memory)
        timer = loop.call_later(timeout_s, reading.fail, _timeout_problem(timeout_s))
        try:
            reading.add_bytes(self._size)
            self._connection.resume_body(self)
            return await reading.done
        finally:
            timer.cancel()
            self._reading = None
            reading.release_memory()

    def add_chunk(self, chunk: bytes) -> None:
        """Add a part of the body, as the connection reads it."""
        self._chunks.append(chunk)
        self._size += len(chunk)
        if self._reading is not None:
            self._reading.add_bytes(len(chunk))

    @property
    def unread_bytes(self) -> int:
        """Bytes of the body that have arrived, if no `read_body` waits for them."""
        return 0 if self._reading is not None else self._size

    def complete_body(self) -> None:
        chunks = self._chunks
        self.body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        if self._reading is not None:
            self._reading.complete(self.body)

    def note_disconnect(self) -> None:
        if self._reading is not None:
            self._reading.fail(ClientGone())


class _BodyReader:
    """Collects the body of a call for `HttpCall.read_body`; reserves memory for it."""

    def __init__(self, done: "asyncio.Future[bytes]", limit_bytes: int, memory: BodyMemory) -> None:
        self.done = done
        self._limit_bytes, self._memory, self._taken = limit_bytes, memory, 0

    def add_bytes(self, size: int) -> None:
        if self._taken + size > self._limit_bytes:
            self.fail(too_large_problem(self._limit_bytes))
            return
        try:
            self._memory.reserve(size)
        except Problem as problem:
            self.fail(problem)
        else:
            self._taken += size

    def complete(self, body: bytes) -> None:
        if not self.done.done():
            self.done.set_result(body)

    def fail(self, error: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(error)

    def release_memory(self) -> None:
        self._memory.release(self._taken)
        self._taken = 0


def _timeout_problem(timeout_s: float) -> Problem:
    detail = f"The body did not arrive within {timeout_s:g} s; send it faster or split the request."
    return Problem(problems.TIMEOUT, detail, headers=[("connection", "close")])
