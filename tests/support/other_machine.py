"""Processes of other machines, with a host and a boot of their own."""

import os
import signal
import threading
from dataclasses import replace
from typing import Any

from forecache.base.folders import LocalFolder
from forecache.kit import lease

TERM_S = 3.0
_LONG_S = 60.0  # of leases that a machine that stands still for seconds is not to lose


def move_to(host: str, *, takes_over: bool = False) -> None:
    """Let this process be one of another machine from now on.

    Args:
        takes_over: Another machine has vanished or stands still, and is followed after a short term.
    """
    guard_swaps()
    acquire, found = lease._acquire, lease.this_process

    def acquire_soon(*of_lease: Any) -> None:
        lease.TERM_S = TERM_S if takes_over else _LONG_S
        acquire(*of_lease)
        lease.TERM_S = _LONG_S

    lease._acquire, lease.MARGIN_S, lease.LEASE = acquire_soon, 0.5, replace(lease.LEASE, every_s=0.3)
    lease.this_process = lambda *of: replace(found(*of), host=host, machine=f"boot of {host}")


_swapping = threading.Lock()


def guard_swaps() -> None:
    """Let `stand_still` stop this process while it has no lock of a file in a folder that machines share.

    Else all others would wait for that lock, which a process that stands still keeps.
    """
    swap = LocalFolder.swap

    def swap_guarded(*what: Any) -> str | None:
        with _swapping:
            return swap(*what)

    LocalFolder.swap = swap_guarded  # type: ignore[method-assign]


def stand_still() -> None:
    """Stop this process until it gets SIGCONT."""
    with _swapping:
        os.kill(os.getpid(), signal.SIGSTOP)
