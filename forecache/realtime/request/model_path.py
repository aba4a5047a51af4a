"""The path to transform and model, on the event loop or in a worker process; and the reasons for no scores."""

from typing import Protocol

import numpy as np

from forecache.realtime.request.request_answer import LookupResult, ParsedRequest, StageTimes


class NoScores(Exception):
    """The model gave no scores; a fallback answers. `reason`: the cause, as answers and metrics name it."""

    reason = "failed"


class TooLate(NoScores):
    """The scores would come, or came, after the deadline."""

    reason = "deadline"


class WorkerLost(NoScores):
    """The worker process of the request hung, crashed or was replaced."""

    reason = "worker_lost"


class RefusedCallError(NoScores):
    """The request was not given to the model: its queue is full, or its circuit breaker is open."""

    reason = "refused"


class ModelCallError(NoScores):
    """Transform or model raised an error, or returned something of a wrong shape."""


class ModelPath(Protocol):
    """Transform and model of one release."""

    in_loop: bool  # if True, `score_now` is called on the event loop; else `score` is awaited
    times: StageTimes  # of the last call of `score_now`: its stages "transform" and "model"

    def score_now(self, request: ParsedRequest, found: LookupResult, left_ns: int) -> np.ndarray:
        """Score on this thread: float64 or float32 [n].

        Raises:
            NoScores: There are no scores; the subclass says why.
        """

    async def score(self, request: ParsedRequest, found: LookupResult, until: float) -> np.ndarray:
        """Score in another process: float64 or float32 [n].

        Args:
            until: Time of `time.monotonic()` at which the caller gives up; `TooLate` is raised before it passes.
        """

    def expected_s(self) -> float:
        """Estimate the seconds until a request sent now is scored; infinity while the model cannot be reached.

        Requests that are ahead in the queue count. Admission compares the estimate with the time left.
        """

    def close(self) -> None:
        """Release processes and memory, in the watching thread, once no new requests come. Running calls may fail."""


def uncached_path(path: ModelPath) -> ModelPath:
    """The path to the model itself."""
    inner: ModelPath = getattr(path, "inner", path)
    return inner
