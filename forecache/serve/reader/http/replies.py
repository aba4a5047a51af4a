"""Requests and replies, and checks that many handlers share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from forecache.kit.http import problems
from forecache.kit.http.connections.call import HttpCall
from forecache.kit.http.problems import Problem, quote_value
from forecache.serve.reader.processes.worker_metrics import ROUTE
from forecache.serve.reader.versions.answers import JSON, Headers


class Reply(NamedTuple):
    """Status, header fields and body of a response."""

    status: int
    headers: Sequence[tuple[str, str]]
    body: bytes


@dataclass(slots=True)
class ParsedRequest:
    """A parsed request.

    Attributes:
        route: Its index in the metrics, set once it is known.
        render: Set by a handler whose reply gets its body in another thread.
    """

    method: str
    path: str
    query: str
    headers: Any
    now: float
    body: bytes = b""
    route: int = ROUTE["other"]
    render: Callable[[], bytes] | None = None


NO_CACHE: Headers = (("content-type", JSON), ("cache-control", "no-cache"))
NO_STORE: Headers = (("content-type", JSON), ("cache-control", "no-store"))


def check_method(request: ParsedRequest | HttpCall, *methods: str) -> None:
    """Raise a `Problem` (405) for another method."""
    allowed = (*methods, "HEAD") if "GET" in methods else methods
    if request.method not in allowed:
        listed = ", ".join(allowed)
        raise Problem(
            problems.METHOD,
            f"{request.method[:20]} is not allowed at {quote_value(request.path)}; use {listed}.",
            headers=[("allow", listed)],
        )


def etag_matches(header: str | None, etag: str) -> bool:
    """Return whether If-None-Match names the ETag, compared weakly (RFC 9110, 13.1.2); False if either is missing."""
    if header is None or not etag:
        return False
    wanted = etag.removeprefix("W/")
    return header.strip() == "*" or wanted in (part.strip().removeprefix("W/") for part in header.split(","))
