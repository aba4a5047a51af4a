"""How the engine reaches transform and model: in the event loop, or in a process that can be abandoned."""

from typing import Protocol

import numpy as np

from forecache.realtime.answer.answered import Times
from forecache.realtime.request.parsed import Found, ParsedRequest


class NoScores(Exception):
    """The model gave no scores; a rung below it answers.

    Attributes:
        reason: Names the cause in the answer and in the metrics.
    """

    reason = "failed"


class TooLate(NoScores):
    """The scores would come, or came, after the deadline."""

    reason = "deadline"


class WorkerLost(NoScores):
    """The process that had the request hung, crashed or was replaced."""

    reason = "worker_lost"


class Refused(NoScores):
    """The request was not given to the model: its queue is full, or its circuit breaker is open."""

    reason = "refused"


class Failed(NoScores):
    """Transform or model raised an error, or returned something of a wrong shape."""


class ModelPath(Protocol):
    """Transform and model of one release.

    Attributes:
        in_loop: Whether `score_now` may be called on the event loop; else `score` is awaited.
        times: Of the last call of `score_now`: its stages "transform" and "model".
    """

    in_loop: bool
    times: Times

    def score_now(self, request: ParsedRequest, found: Found, left_ns: int) -> np.ndarray:
        """Scores, float64 or float32 [n], on this thread.

        Args:
            left_ns: Nanoseconds that the call may take.

        Raises:
            NoScores: One of its kinds says why there are none.
        """

    async def score(self, request: ParsedRequest, found: Found, until: float) -> np.ndarray:
        """Scores, float64 or float32 [n], from another process.

        Args:
            until: Time of `time.monotonic()` at which the caller gives up; `TooLate` is raised before it passes.

        Raises:
            NoScores: One of its kinds says why there are none.
        """

    def expected_s(self) -> float:
        """Seconds until the scores of a request that is handed over now; infinity while there is no way to the model.

        It counts the requests that wait ahead of it. Admission compares it with what is left until the deadline.
        """

    def close(self) -> None:
        """Give up processes and memory, in the watching thread, once no new request comes. Calls under way may fail."""
