"""Limits on requests: path, body size and time, and the memory of all bodies in progress."""

import asyncio
from typing import Any

from granian.rsgi import ProtocolClosed  # type: ignore[attr-defined]

from forecache.reader.http import problems
from forecache.reader.http.problems import Problem

MAX_PATH_BYTES = 4096
"""Longest path and longest query; a key has at most 511 bytes, three times as many when percent-encoded."""

MAX_HEAD_BYTES = 16 * 1024
"""Largest request line and header fields together; the server itself refuses more, with 431."""


WHOLE_BODY_BYTES = 16 * 1024
"""Bodies up to this size are read in one step and counted before they arrive, larger ones as they arrive."""


class ClientGone(Exception):
    """The client closed the connection before its request was complete; there is nobody to answer."""


class BodyMemory:
    """A limit on the memory of all request bodies in progress in a worker.

    Thousands of connections may each send a body within the limit for one; without a limit for all of them the worker
    could need the product of both.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.free_bytes = limit_bytes

    def take(self, size_bytes: int) -> None:
        """Reserve memory; `give_back` returns it.

        Raises:
            Problem: 503, if too little is left.
        """
        if size_bytes > self.free_bytes:
            raise Problem(
                problems.OVERLOADED,
                "The bodies of other requests take all the memory for bodies; ask again in a second.",
                headers=[("retry-after", "1"), ("connection", "close")],
            )
        self.free_bytes -= size_bytes

    def give_back(self, size_bytes: int) -> None:
        self.free_bytes += size_bytes


async def read_body(proto: Any, headers: Any, memory: BodyMemory, *, limit_bytes: int, timeout_s: float) -> bytes:
    """Read the whole body.

    Raises:
        Problem: It is larger than `limit_bytes` (refused unread if the client sends its length), there is no memory for
            it, or it has not arrived after `timeout_s`.
        ClientGone: The client closed the connection first.
    """
    length = headers.get("content-length")
    expected = int(length) if length is not None and length.isdecimal() else -1
    if expected > limit_bytes:
        raise _too_large(limit_bytes)
    task = asyncio.current_task()
    assert task is not None, "granian runs handlers as tasks"
    # A separate timer, because asyncio.wait_for would add a task and two turns of the loop to every request.
    timer = asyncio.get_running_loop().call_later(timeout_s, task.cancel)
    taken = 0
    try:
        if 0 <= expected <= WHOLE_BODY_BYTES:
            memory.take(expected)
            taken = expected
            body: bytes = await proto()
            return body
        chunks = []
        async for chunk in proto:
            size = len(chunk)
            if taken + size > limit_bytes:
                raise _too_large(limit_bytes)
            memory.take(size)
            taken += size
            chunks.append(chunk)
        return b"".join(chunks)
    except ProtocolClosed:
        raise ClientGone from None
    except asyncio.CancelledError:
        raise Problem(
            problems.TIMEOUT,
            f"The body did not arrive within {timeout_s:g} s; send it faster or split the request.",
            headers=[("connection", "close")],
        ) from None
    finally:
        timer.cancel()
        memory.give_back(taken)


def _too_large(limit_bytes: int) -> Problem:
    return Problem(
        problems.TOO_LARGE,
        f"The body is larger than {limit_bytes} bytes; split the request.",
        headers=[("connection", "close")],
    )
