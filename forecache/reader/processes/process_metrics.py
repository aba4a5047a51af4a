"""Process metrics under the standard names of Prometheus clients, summed over a reader's processes."""

import os
import resource
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from forecache.metrics import processes
from forecache.metrics.metric import Metric

_FILES = resource.RLIMIT_NOFILE
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_USER, _SYSTEM, _STARTED, _RESIDENT = 11, 12, 19, 21  # fields of proc(5)'s stat, counted from the one after the name


def process_values(workers: Iterable[int]) -> Iterator[tuple[Metric, object]]:
    """Each metric and its value; none if the system has no /proc.

    Args:
        workers: Process ids of the workers, all children of the main process.
    """
    stats = {pid: stat for pid in {*workers, os.getppid()} if (stat := _stat(pid))}
    if not stats:
        return
    ticks = sum(int(stat[_USER]) + int(stat[_SYSTEM]) for stat in stats.values())
    yield processes.CPU, f"{ticks * _TICK_S:.2f}"
    yield processes.RESIDENT, sum(int(stat[_RESIDENT]) for stat in stats.values()) * os.sysconf("SC_PAGE_SIZE")
    yield processes.OPEN_FILES, sum(map(_num_open, stats))
    yield processes.MOST_FILES, resource.getrlimit(_FILES)[0]
    with open("/proc/uptime") as file:
        booted = time.time() - float(file.read().split()[0])
    started = min(int(stat[_STARTED]) for stat in stats.values())
    yield processes.STARTED, f"{booted + started * _TICK_S:.2f}"


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _num_open(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0
