"""Memory and state of a process, read from /proc."""

import os

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def own_memory_bytes(pid: int) -> int:
    """Return the resident memory that a process does not share through files; 0 if it cannot be read."""
    try:
        with open(f"/proc/{pid}/statm") as file:
            _, resident, shared, *_ = file.read().split()
    except (OSError, ValueError):
        return 0
    return (int(resident) - int(shared)) * _PAGE_BYTES


def is_stopped(pid: int) -> bool:
    """Return True if a process was stopped by a signal or a debugger."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] in "Tt"
    except (OSError, IndexError):
        return False
