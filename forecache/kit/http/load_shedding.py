"""Load shedding: a request that a worker has no time for is refused before it is parsed.

To parse a request, find its handler and encode an error costs as much as a plain answer. A worker that did that for
requests that it cannot answer in time would have no time left for those that it can. So a request is refused by a
constant response, chosen by the bytes of its head and the time of its arrival.
"""

import re
from http import HTTPStatus
from time import time
from typing import Literal, NamedTuple, Protocol

from forecache.kit.http.problems import BUSY, Problem


def busy_problem() -> Problem:
    detail = "The reader cannot answer in time now; ask again in a second, or ask another replica."
    return Problem(BUSY, detail, headers=[("retry-after", "1")])


def _busy_response() -> bytes:
    problem = busy_problem()
    fields = "".join(f"{name}: {value}\r\n" for name, value in problem.header_list())
    body = problem.body()
    start = f"HTTP/1.1 {BUSY.status} {HTTPStatus(BUSY.status).phrase}\r\n{fields}content-length: {len(body)}\r\n\r\n"
    return start.encode() + body


BUSY_RESPONSE = _busy_response()
"""The response to a request that is refused; the connection stays open.

Its status is not 503: balancers take a server that answers so for unable to serve, ask another one, which is as busy,
and send it nothing for a while.
"""

_VALUES = (b"GET /v1/", b"POST /v1/", b"POST /get-online-features ")
"""Requests for values. Probes, scrapes and documents are never refused."""
_HEAD_END = b"\r\n\r\n"
_FIELDS = re.compile(
    rb"\n(?:content-length: *(\d{1,9})(?=\r)|x-request-start: *(?:t=)?([\d.]{1,31})(?=\r)"
    rb"|connection: *keep-alive *(?=\r)|(content-length|transfer-encoding|connection|expect|upgrade)\b)",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"\d{1,20}(\.\d{1,9})?")
_LEFT_SHARE = 0.5
"""Share of its deadline that a request must have left to be queued: newer ones are likelier to be answered in time."""
_BUSY_SHARE = 0.5
"""Share of the queue that is open to connections which have had their part; the rest is for those that ask seldom."""
_PERIOD_NS, _LONGEST_NS = 200_000_000, 1_000_000_000
"""How often the part of a connection is computed, and the longest time for which it is refused for that."""
_REFUSAL_NS = 10_000
"""Time that a refusal takes, about."""
_ACTIVE_NS = 100_000_000
"""After the last refusal, heads of requests are looked at for so long."""
_LONGEST_WAIT_S = 30.0
"""A balancer's time of arrival is ignored if it is longer ago than this, or in the future."""


class WorkQueue(Protocol):
    """Requests that wait for the event loop's thread."""

    def is_full(self, deadline_ns: float) -> bool:
        """Return True if a request with this deadline would wait too long."""

    def may_fall_back(self, now: int) -> bool:
        """Return True if a request that is not queued may have a cheap answer instead of a refusal."""

    def spend_beside(self, nanoseconds: int) -> None:
        """Note time that was spent on requests that are not queued."""


class RouteLimit(NamedTuple):
    """A route whose requests wait in a queue, and their deadline."""

    queue: WorkQueue
    deadline_ns: int


class ConnectionShare:
    """The part that one connection has of a worker under overload; times are of `perf_counter_ns`."""

    __slots__ = ("period", "queued_at")

    def __init__(self) -> None:
        self.queued_at = self.period = 0  # when a request of it was queued last, and the last period in which it asked


class LoadShedder:
    """Decides which requests of one worker are refused unparsed; times are of `perf_counter_ns`.

    Attributes:
        limits: By method and path, such as `b"POST /v1/ranking"`.
        active_until: Until this time, heads of requests are looked at.
        num_queued, num_read: Refused requests of routes with a queue, and of others.
    """

    def __init__(self) -> None:
        self.limits: dict[bytes, RouteLimit] = {}
        self.active_until = self.num_queued = self.num_read = 0
        self._period = self._began = 0
        self._num_asking = self._num_accepted = 0
        self._fair_ns = 0  # time between two requests of one connection if all have an equal share

    def activate(self, now: int) -> None:
        self.active_until = now + _ACTIVE_NS

    def judge(
        self, data: bytes, now: int, share: ConnectionShare, *, waited_ns: int, is_behind: bool
    ) -> Literal["accept", "surplus", "refuse"]:
        """Decide about the request in `data`, which begins a request, without parsing it.

        Args:
            waited_ns: Longest time that it may have waited in the socket.
            is_behind: True if the worker cannot answer in time what it has still to read.

        Returns:
            "surplus" if the request should not be queued, but there is time to parse it and give it a cheap answer.
        """
        limit = self.limits.get(data[: data.find(b" ", 5)])
        if limit is None:
            if not is_behind or not data.startswith(_VALUES) or find_stamp(data) is None:
                return "accept"
            self.num_read += 1
            return "refuse"
        stamp = find_stamp(data)
        if stamp is None:
            return "accept"
        if now - self._began > _PERIOD_NS:
            self._begin_period(now)
        if share.period != self._period:
            share.period = self._period
            self._num_asking += 1
        queue, deadline_ns = limit
        may_fall_back, left_ns = queue.may_fall_back(now), 0
        if may_fall_back or not queue.is_full(deadline_ns):  # else it is refused, however old it is
            left_ns = deadline_ns - stamp_age_ns(stamp.decode(), waited_ns)
        if left_ns > deadline_ns * _LEFT_SHARE:
            has_had_part = now - share.queued_at < self._fair_ns
            if not queue.is_full(left_ns * _BUSY_SHARE if has_had_part else left_ns):
                share.queued_at = now
                self._num_accepted += 1
                return "accept"
            if may_fall_back:
                return "surplus"
        self.activate(now)
        self.num_queued += 1
        queue.spend_beside(_REFUSAL_NS)
        return "refuse"

    def _begin_period(self, now: int) -> None:
        lasted_ns = now - self._began
        fair_ns = self._num_asking * lasted_ns // max(1, self._num_accepted)
        # A period in which nothing was judged for long says nothing about the next one.
        self._fair_ns = min(fair_ns, _LONGEST_NS) if lasted_ns < 2 * _PERIOD_NS else 0
        self._began, self._period = now, self._period + 1
        self._num_asking = self._num_accepted = 0


def find_stamp(data: bytes) -> bytes | None:
    """Return the time at which a request says that it arrived, b"" if it does not; None if `data` is not one whole
    plain request.

    A request that closes its connection, or may have more bytes to come, is not plain.
    """
    end = data.find(_HEAD_END)
    line = data.find(b"\r")
    if end < 0 or data[line - 9 : line] != b" HTTP/1.1":
        return None
    num_lines = data.count(b"\r\n", 0, end)
    if data.count(b"\n", 0, end) != num_lines or data.count(b"\r", 0, end) != num_lines:
        return None  # readers of such lines differ about where they end
    length, found = -1, b""
    for size, stamp, other in _FIELDS.findall(data, line, end + 1):
        if other or (size and length >= 0):
            return None
        if size:
            length = int(size)
        found = found or stamp
    return found if len(data) == end + len(_HEAD_END) + max(length, 0) else None


def stamp_age_ns(stamp: str, otherwise: int) -> int:
    """Return the nanoseconds since a Unix time in seconds, ms, us or ns; `otherwise` if it is no plausible time."""
    if not _NUMBER.fullmatch(stamp):
        return otherwise
    moment = float(stamp)
    while moment > 1e11:
        moment /= 1e3
    wait_s = time() - moment
    return int(wait_s * 1e9) if 0.0 <= wait_s <= _LONGEST_WAIT_S else otherwise
