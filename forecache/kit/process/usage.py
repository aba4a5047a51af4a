"""The processor time and memory of this process and its descendants, and a meter that divides the time among stages."""

import os
import resource
import sys
import threading
from pathlib import Path

_RSS_UNIT = 1 if sys.platform == "darwin" else 1024


def tree_cpu_s(pid: int) -> float:
    """Return the CPU seconds (user and system) of a process and its descendants since their start.

    A child that has ended still counts: the kernel adds its time to its parent's when the parent has waited for it. So
    the difference of two calls is the time that the tree used in between. psutil.NoSuchProcess if it has ended.
    """
    import psutil

    root = psutil.Process(pid)
    total = 0.0
    # Children first: one that ends meanwhile is then missing, and not counted twice (itself and in its parent).
    for each in (*reversed(root.children(recursive=True)), root):
        try:
            times = each.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return float(total)


def _children(pid: int) -> list[int]:
    """The running descendants of a process, children before their own; [] if the kernel does not list them."""
    found: list[int] = []
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += map(int, listed.read_text().split())
        except OSError:
            continue
    return [*found, *(each for child in found for each in _children(child))]


def own_cpu_s() -> float:
    """Return `tree_cpu_s` of this process, in a fraction of a millisecond if it has few children."""
    own = sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )
    return own + sum(map(_ticks_s, reversed(_children(os.getpid()))))


def _ticks_s(pid: int) -> float:
    """CPU seconds of a process and of its children that have ended; 0.0 if it has ended itself."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def peak_memory_bytes() -> int:
    """Return the most memory that this process and its running descendants had so far, each at its own peak."""
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT
    ended = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * _RSS_UNIT
    return max(own + sum(map(_peak_bytes, _children(os.getpid()))), ended)


def _peak_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


_attributed_s = 0.0
"""CPU seconds of this process that meters have given out."""
_attributing = threading.Lock()
_handed_out = 0
"""Number of times that this process has handed work to processes whose CPU time it does not see."""


def note_remote_work() -> None:
    """Note that work goes to processes that are no descendants of this one, as executors of a cluster."""
    global _handed_out
    with _attributing:
        _handed_out += 1


class CpuMeter:
    """A meter of the CPU time since it was made, without what other meters have given out meanwhile.

    So the time of a stage that runs inside another one counts once. Stages of several threads share what they use.
    """

    def __init__(self) -> None:
        with _attributing:
            self._began_s, self._handed_out = own_cpu_s() - _attributed_s, _handed_out

    def take_s(self) -> float | None:
        """Return the CPU seconds since it was made or since the last call, and give them out; None if work has gone to
        processes that it does not see.
        """
        global _attributed_s
        with _attributing:
            used_s = max(0.0, own_cpu_s() - _attributed_s - self._began_s)
            _attributed_s += used_s
            is_whole, self._handed_out = self._handed_out == _handed_out, _handed_out
        return used_s if is_whole else None
