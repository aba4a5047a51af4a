"""Limits on requests: path, body size and time, and the memory of all bodies in progress."""

from forecache.kit.http import problems
from forecache.kit.http.problems import Problem

MAX_PATH_BYTES = 4096
"""Longest path and longest query; a key has at most 511 bytes, three times as many when percent-encoded."""

MAX_HEAD_BYTES = 16 * 1024
"""Largest request line and header fields together; more are refused with 431."""
MAX_HEAD_FIELDS = 100


class BodyMemory:
    """A limit on the memory of all request bodies in progress in a worker.

    Thousands of connections may each send a body within the limit for one; without a limit for all of them the worker
    could need the product of both.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.free_bytes = limit_bytes

    def reserve(self, size_bytes: int) -> None:
        """Reserve memory; `release` returns it.

        Raises:
            Problem: 503, if too little is left.
        """
        self.check(size_bytes)
        self.free_bytes -= size_bytes

    def check(self, size_bytes: int) -> None:
        """Raise a `Problem`, 503, if so much could not be reserved now."""
        if size_bytes > self.free_bytes:
            raise Problem(
                problems.OVERLOADED,
                "The bodies of other requests take all the memory for bodies; ask again in a second.",
                headers=[("retry-after", "1"), ("connection", "close")],
            )

    def release(self, size_bytes: int) -> None:
        self.free_bytes += size_bytes


def too_large_problem(limit_bytes: int) -> Problem:
    """The problem of a body that is larger than the limit."""
    return Problem(
        problems.TOO_LARGE,
        f"The body is larger than {limit_bytes} bytes; split the request.",
        headers=[("connection", "close")],
    )
