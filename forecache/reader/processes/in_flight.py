"""Counts how long requests are in flight in a worker, the time in which they wait for its event loop included.

A handler's clock starts when the loop reads a request. How long it waited in its socket before, the connections know.
"""

from collections.abc import Callable

from forecache.reader.processes.metrics import IN_FLIGHT, WorkerMetrics
from forecache.reader.versions.watcher import RunOnLoop


class InFlight:
    """Counts the time that requests of one worker are in flight, including the wait for its event loop.

    By Little's law the growth of this time in a second is the mean number of requests in flight. A count at the moment
    of a scrape would mostly miss requests that last a fraction of a millisecond.

    Args:
        waited_ns: Returns the time that all requests together have waited in their sockets so far, in nanoseconds.
    """

    def __init__(self, metrics: WorkerMetrics, waited_ns: Callable[[], int]) -> None:
        self._metrics, self._waited_ns = metrics, waited_ns
        self._counted_ns = self._total_ns()

    def turn(self, _: RunOnLoop) -> None:
        """Add the time since the last call to the worker's counter."""
        total_ns = self._total_ns()
        self._metrics.cells[IN_FLIGHT] += total_ns - self._counted_ns
        self._counted_ns = total_ns

    def _total_ns(self) -> int:
        return self._metrics.handling_ns() + self._waited_ns()
