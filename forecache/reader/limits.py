"""Limits on what a client may send: path, body size and time, and requests per second and address."""

import asyncio
import math
import mmap
import struct
import time
import zlib
from typing import Any

from granian.rsgi import ProtocolClosed  # type: ignore[attr-defined]

from forecache.reader import problems
from forecache.reader.problems import Problem

MAX_PATH_BYTES = 4096
"""Longest path and longest query; a key has at most 511 bytes, three times that when percent-encoded."""

MAX_HEAD_BYTES = 16 * 1024
"""Largest request line and header fields together; the server itself refuses more, with 431."""


class ClientGone(Exception):
    """The client closed the connection before its request was whole; there is nobody to answer."""


async def read_body(proto: Any, headers: Any, *, limit_bytes: int, timeout_s: float) -> bytes:
    """The whole body.

    Raises:
        Problem: It is larger than `limit_bytes` (found before it is read where the client says its length) or has
            not arrived after `timeout_s`.
        ClientGone: The client closed the connection first.
    """
    length = headers.get("content-length")
    if length is not None and length.isdecimal() and int(length) > limit_bytes:
        raise _too_large(limit_bytes)
    task = asyncio.current_task()
    assert task is not None, "granian runs handlers as tasks"
    # A timer of its own: asyncio.wait_for would add a task and two turns of the loop to every request.
    timer = asyncio.get_running_loop().call_later(timeout_s, task.cancel)
    try:
        if length is not None:
            body: bytes = await proto()
            return body
        chunks, size = [], 0
        async for chunk in proto:
            size += len(chunk)
            if size > limit_bytes:
                raise _too_large(limit_bytes)
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


def _too_large(limit_bytes: int) -> Problem:
    return Problem(
        problems.TOO_LARGE,
        f"The body is larger than {limit_bytes} bytes; split the request.",
        headers=[("connection", "close")],
    )


class RateLimit:
    """Requests per second and client address, over all workers of a reader.

    The generic cell rate algorithm (ITU-T I.371): one time per client says when its bucket is empty again. The times
    lie in a table shared between the workers. It takes no lock: a lost update lets one request more through.

    Args:
        table: Shared memory of `TABLE_BYTES`.
        rate: Requests per second; a client that was quiet may send that many at once.
    """

    SLOTS = 1 << 16
    PROBES = 4
    TABLE_BYTES = SLOTS * 16

    def __init__(self, table: mmap.mmap, rate: int) -> None:
        self._table = table
        self._interval = 1.0 / rate
        self._burst = 1.0
        self._slot = struct.Struct("<Qd")

    def wait_s(self, address: str, now: float) -> float:
        """Seconds until the client may ask again, 0.0 where it may now (and the request is counted)."""
        table, slot = self._table, self._slot
        encoded = address.encode()
        mark = zlib.crc32(encoded) << 32 | zlib.adler32(encoded) | 1
        first = mark * 0x9E3779B97F4A7C15 >> 40
        chosen, oldest, free_at = -1, math.inf, now
        for probe in range(self.PROBES):
            offset = ((first + probe) & self.SLOTS - 1) * 16
            found, empty_at = slot.unpack_from(table, offset)
            if found == mark:
                chosen, free_at = offset, max(empty_at, now)
                break
            if empty_at < oldest:
                chosen, oldest = offset, empty_at
        free_at += self._interval
        wait = free_at - now - self._burst
        if wait > 1e-9:
            return wait
        slot.pack_into(table, chosen, mark, free_at)
        return 0.0


def check_rate(limit: RateLimit, client: str) -> None:
    """Refuse the request of a client (as RSGI names it, `address:port`) that asks too often."""
    address = client.rpartition(":")[0] or client
    wait = limit.wait_s(address, time.monotonic())
    if wait:
        seconds = max(1, math.ceil(wait))
        raise Problem(
            problems.RATE,
            f"The address {address} asks too often; try again in {seconds} s.",
            headers=[("retry-after", str(seconds))],
        )
