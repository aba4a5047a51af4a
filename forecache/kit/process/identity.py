"""Identity of a process among those of all machines, by which others find out that it has ended.

On Linux a process is known by the boot of its machine, the namespace of its number, its number, and its start: numbers
are given again. Elsewhere nobody can tell that a process has ended, and other signs have to be waited for.
"""

import os
import socket
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ProcessIdentity:
    """A process of any machine, as it is written down for others."""

    host: str
    machine: str  # boot id and process namespace, within which process ids are unique; "" if unknown
    pid: int
    started: str  # in ticks since the boot

    @property
    def is_of_this_machine(self) -> bool:
        return self.machine != "" and self.machine == machine_id()

    @property
    def is_dead(self) -> bool:
        """True if the process ran on this machine and has certainly ended."""
        return self.is_of_this_machine and _start_ticks(self.pid) != self.started

    def to_text(self) -> str:
        return f"{self.host}/{self.machine} {self.started} {self.pid}"

    @classmethod
    def from_text(cls, text: str) -> "ProcessIdentity":
        host, _, rest = text.partition("/")
        *machine, started, pid = rest.split(" ")
        return cls(host, " ".join(machine), int(pid), started)


def identify_process() -> ProcessIdentity:
    """The identity of this process."""
    pid = os.getpid()
    return ProcessIdentity(socket.gethostname(), machine_id(), pid, _start_ticks(pid))


def machine_id() -> str:
    """The boot of this machine, and the namespace of its process ids; "" if that is unknown."""
    if sys.platform != "linux":
        return ""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {os.readlink('/proc/self/ns/pid')}"


def _start_ticks(pid: int) -> str:
    """When a process of this machine started, in ticks since the boot; "" if it does not exist or is a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    state, *fields = stat.rpartition(")")[2].split()
    return "" if state in "ZX" else fields[18]
