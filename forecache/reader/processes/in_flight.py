"""Counts how long requests are in flight in a worker, the time in which they wait for its event loop included.

A handler's clock starts when the loop gets to the request. How long it waited before is sampled: a few times a second
the watching thread sends something through the same queue, whose wait stands for that of the requests around it.
"""

from time import perf_counter_ns

from forecache.reader.processes.metrics import IN_FLIGHT, WorkerMetrics
from forecache.reader.versions.watcher import RunOnLoop

_SAMPLES = 4


class InFlight:
    """The time in flight of one worker's requests.

    By Little's law the growth of this time in a second is the mean number of requests in flight. It says more than a
    count at the moment of a scrape, which of requests of a fraction of a millisecond sees mostly none.
    """

    def __init__(self, metrics: WorkerMetrics) -> None:
        self._metrics = metrics
        self._requests, self._handling_ns = metrics.totals()
        self._waits: list[int] = []

    def turn(self, run_on_loop: RunOnLoop) -> None:
        """Sample the wait; after some samples, count."""
        asked = perf_counter_ns()
        run_on_loop(lambda: self._waits.append(perf_counter_ns() - asked))
        if len(self._waits) >= _SAMPLES:
            self.count(sum(self._waits) / len(self._waits))
            self._waits.clear()

    def count(self, wait_ns: float) -> None:
        """Count the requests since the last time, each of which has waited so long for its handler."""
        requests, handling_ns = self._metrics.totals()
        waited_ns = (requests - self._requests) * wait_ns
        self._metrics.cells[IN_FLIGHT] += handling_ns - self._handling_ns + int(waited_ns)
        self._requests, self._handling_ns = requests, handling_ns
