"""Processes that run while something is measured: the reader at a port, and the CPU time of several."""

from collections.abc import Iterable

import psutil


def reader_at(port: int) -> list[psutil.Process]:
    """The reader that was started on a port and all its children, the reader first; empty where there is none."""
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if str(port) in words and "serve" in words:
            return with_children(process)
    return []


def with_children(process: psutil.Process) -> list[psutil.Process]:
    """A process and all that descend from it and are alive."""
    return [process, *process.children(recursive=True)]


def cpu_s(processes: Iterable[psutil.Process]) -> float:
    """CPU seconds that processes have taken since their start, in user and in system mode."""
    times = [process.cpu_times() for process in processes]
    return float(sum(each.user + each.system for each in times))
