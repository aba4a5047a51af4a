"""Memory of the processes that score: each Spark worker tells its largest after a task, this process knows its own."""

import os
import resource
import socket
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark import Accumulator, SparkContext

Peaks = dict[str, int]
"""Largest resident memory so far in bytes, by host and process."""


def peak_bytes() -> int:
    """The largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def own_peak() -> Peaks:
    return {f"{socket.gethostname()}:{os.getpid()}": peak_bytes()}


def merged(first: Peaks, second: Peaks) -> Peaks:
    """Both, and the larger where a process is in both."""
    return first | {process: max(peak, first.get(process, 0)) for process, peak in second.items()}


def worker_peaks(context: "SparkContext") -> "Accumulator[Peaks]":
    """What the workers of a job add `own_peak()` to."""
    from pyspark.accumulators import AccumulatorParam

    class PeaksParam(AccumulatorParam[Peaks]):
        def zero(self, value: Peaks) -> Peaks:
            return {}

        def addInPlace(self, value1: Peaks, value2: Peaks) -> Peaks:
            return merged(value1, value2)

    return context.accumulator({}, PeaksParam())
