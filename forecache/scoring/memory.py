"""Peak memory of the processes that score: each Spark worker reports its own after a task."""

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


def merge_peaks(first: Peaks, second: Peaks) -> Peaks:
    """Merge two, with the larger peak of a process that is in both."""
    return first | {process: max(peak, first.get(process, 0)) for process, peak in second.items()}


def worker_peaks(context: "SparkContext") -> "Accumulator[Peaks]":
    """An accumulator to which the workers of a job add `own_peak()`."""
    from pyspark.accumulators import AccumulatorParam

    class PeaksParam(AccumulatorParam[Peaks]):
        def zero(self, value: Peaks) -> Peaks:
            return {}

        def addInPlace(self, value1: Peaks, value2: Peaks) -> Peaks:
            return merge_peaks(value1, value2)

    return context.accumulator({}, PeaksParam())
