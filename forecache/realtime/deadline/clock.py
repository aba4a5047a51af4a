"""Arrival and deadline of a request.

A request waits in the socket before a handler sees it. The header of a load balancer tells its arrival; without one,
the wait is estimated as the time that the loop has worked since it last polled.
"""

import re
import time
from dataclasses import dataclass

from forecache.kit.http import problems
from forecache.kit.http.call import HttpCall
from forecache.kit.http.problems import Problem, quote_value

_START, _DEADLINE, _GRPC, _ENVOY = (
    "x-request-start", "x-deadline-ms", "grpc-timeout", "x-envoy-expected-rq-timeout-ms",
)  # fmt: skip
_NUMBER = re.compile(r"\d{1,20}(\.\d{1,9})?")
_GRPC_TIMEOUT = re.compile(r"(\d{1,8})([HMSmun])")
_GRPC_MS = {"H": 3_600_000.0, "M": 60_000.0, "S": 1000.0, "m": 1.0, "u": 1e-3, "n": 1e-6}
_LONGEST_WAIT_S = 30.0
"""A balancer's time of arrival is ignored if it is longer ago than this, or in the future."""


@dataclass(slots=True)
class RequestClock:
    """The times of one request, in nanoseconds of `time.perf_counter_ns`.

    Attributes:
        arrived: Arrival at the balancer, or at this process as estimated.
        until: Time at which the answer has to leave the handler.
        deadline_ms: Granted time from arrival until the answer is sent.
    """

    arrived: int
    until: int
    deadline_ms: float

    def is_late(self, now: int) -> bool:
        """Return True if the deadline has passed."""
        return now - self.arrived > self.deadline_ms * 1e6


def clock_of(call: HttpCall, most_ms: float) -> RequestClock:
    """Read the arrival and the deadline of a request from its headers.

    Args:
        most_ms: The declared deadline; a request may ask for a shorter one.

    Raises:
        Problem: 400 for a header that is not a time, 504 if the client has no time left.
    """
    get = call.headers.get
    stamp = get(_START)
    wait = call.waited if stamp is None else _nanoseconds_since(stamp, call.waited)
    asked = most_ms
    if (text := get(_DEADLINE)) is not None:
        asked = min(asked, _milliseconds(_DEADLINE, text))
    if (text := get(_GRPC)) is not None:
        asked = min(asked, _grpc_milliseconds(text))
    if (text := get(_ENVOY)) is not None:
        asked = min(asked, _milliseconds(_ENVOY, text))
    _check_left(asked)
    arrived = call.arrived - wait
    return RequestClock(arrived, arrived + int(asked * 1e6), asked)


def shorten_deadline(clock: RequestClock, asked_ms: float) -> RequestClock:
    """Apply the deadline in a request's body; the shorter one counts.

    Raises:
        Problem: 504 if the client has no time left.
    """
    if asked_ms >= clock.deadline_ms:
        return clock
    _check_left(asked_ms)
    return RequestClock(clock.arrived, clock.arrived + int(asked_ms * 1e6), asked_ms)


def _check_left(asked_ms: float) -> None:
    if asked_ms <= 0.0:
        raise Problem(
            problems.DEADLINE_PASSED,
            f"The request has {asked_ms:g} ms left to be answered in, so nothing was computed; send a longer time.",
            members={"deadline_ms": asked_ms},
        )


def _nanoseconds_since(stamp: str, otherwise: int) -> int:
    """Return the nanoseconds since a Unix time in seconds, ms, us or ns, as nginx (`t=`), HAProxy and others write it.

    A malformed or implausible header is not the client's fault: `otherwise` is returned.
    """
    text = stamp.removeprefix("t=")
    if not _NUMBER.fullmatch(text):
        return otherwise
    moment = float(text)
    while moment > 1e11:
        moment /= 1e3
    wait_s = time.time() - moment
    return int(wait_s * 1e9) if 0.0 <= wait_s <= _LONGEST_WAIT_S else otherwise


def _milliseconds(header: str, text: str) -> float:
    if not _NUMBER.fullmatch(text):
        raise _malformed_header_error(header, text, "a number of milliseconds such as 40")
    return float(text)


def _grpc_milliseconds(text: str) -> float:
    found = _GRPC_TIMEOUT.fullmatch(text)
    if found is None:
        raise _malformed_header_error(_GRPC, text, "digits and a unit of H, M, S, m, u, n, such as 40m")
    return int(found[1]) * _GRPC_MS[found[2]]


def _malformed_header_error(header: str, text: str, takes: str) -> Problem:
    return Problem(problems.BAD_REQUEST, f"The header {header} is {quote_value(text)}; it takes {takes}.")
