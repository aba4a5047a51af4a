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


def tree_cpu_s(pid: int) -> float:
    """CPU seconds of a process and of all that it has started, since their start, in user and in system mode.

    A child that has ended still counts: the kernel adds its time to its parent's when the parent has waited for it. So
    the difference of two calls is what the tree has taken meanwhile.

    Raises:
        psutil.NoSuchProcess: It has ended.
    """
    root = psutil.Process(pid)
    total = 0.0
    # Children first: one that ends between the looks is then missing, not counted as a child and by its parent.
    for each in (*reversed(root.children(recursive=True)), root):
        try:
            times = each.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return float(total)
