"""How long machines do nothing: each wait for a machine that was killed, and each that names nobody."""

import re
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from _cluster.machines import Machine

LIMIT_S = 40.0
"""A step may wait for a killed machine for the term of its lease, 30 s, and 10 s longer."""
_WINDOW_S, _IDLE_SHARE = 5.0, 0.25
"""A machine whose threads want less than this of a core during a window does nothing: it polls, and has an idle JVM."""
_HOLDER = re.compile(r"process \d+ on ([^\s,)]+)")


@dataclass
class _Use:
    """Use of a machine.

    Attributes:
        at: The beginning of the window, and `wanted_s` the seconds until then.
        idle_since: Since when it has done nothing; 0 if it works.
        about: Killed machines that its last line names, or that line, and `about_since` since when.
    """

    at: float
    wanted_s: float
    idle_since: float = 0.0
    about: str = ""
    about_since: float = 0.0


@dataclass
class Waits:
    """Waits of machines, measured at each look.

    A wait counts if nobody else works on what it is for: it begins when the machine does nothing and its last line
    names a process on a machine that was killed, or names no process at all. A new line ends the latter.

    Attributes:
        longest_s: The longest wait for a machine that had been killed, by the name of the machine that waited.
        longest_unnamed_s: The longest time without a line about a holder in which a machine did nothing, likewise.
        stuck: Waits longer than the limit.
    """

    longest_s: dict[str, float] = field(default_factory=dict)
    longest_unnamed_s: dict[str, float] = field(default_factory=dict)
    stuck: dict[str, str] = field(default_factory=dict)
    _uses: dict[str, _Use] = field(default_factory=dict)

    def look(self, machines: Iterable[Machine], killed_at: Mapping[str, float]) -> None:
        """Measure what the machines do now; `killed_at` has the clock's time by the host names of killed ones."""
        for machine in machines:
            with suppress(psutil.NoSuchProcess):
                wanted_s = _find_wanted_s(machine.process.pid)
                self._add(machine.name, machine.host_name, wanted_s, last_line(machine.read_log()), killed_at)

    def _add(self, name: str, host: str, wanted_s: float, line: str, killed_at: Mapping[str, float]) -> None:
        now = time.monotonic()
        use = self._uses.setdefault(host, _Use(now, wanted_s))
        if now - use.at >= _WINDOW_S:
            is_idle = 0 <= wanted_s - use.wanted_s < _IDLE_SHARE * (now - use.at)
            use.idle_since = (use.idle_since or use.at) if is_idle else 0.0
            use.at, use.wanted_s = now, wanted_s
        holders = find_awaited_hosts(line)
        killed = [holder for holder in holders if holder in killed_at]
        about = " ".join(killed) if holders else line
        if use.about != about or not use.about_since:
            use.about, use.about_since = about, now
        if not use.idle_since or (holders and not killed):
            return
        waited = now - max(use.idle_since, use.about_since)
        longest = self.longest_s if holders else self.longest_unnamed_s
        longest[name] = round(max(longest.get(name, 0.0), waited), 1)
        if waited > LIMIT_S:
            self.stuck[f"{host}: {about}"] = f"{waited:.0f} s: {line}"


def _find_wanted_s(pid: int) -> float:
    """Seconds in which threads of a process and its descendants had a core or waited for one.

    A machine that works wants a core also where others leave it none. Those of threads that have ended are not in it.
    """
    total_ns = 0
    for process in (parent := psutil.Process(pid), *parent.children(recursive=True)):
        for file in Path(f"/proc/{process.pid}/task").glob("*/schedstat"):
            with suppress(OSError):
                total_ns += sum(map(int, file.read_text().split()[:2]))
    return total_ns / 1e9


def find_awaited_hosts(line: str) -> list[str]:
    """Host names of the processes that a line of a waiting machine names."""
    return _HOLDER.findall(line)


def last_line(text: str) -> str:
    """The last line that is not empty."""
    return next((line.strip() for line in reversed(text.split("\n")) if line.strip()), "")
