"""Runs a program that has children of its own, and ends with all of them, however it is told to."""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence

_TOLD = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
_INTERRUPTED_S, _TERMINATED_S = 15.0, 5.0
"""Seconds that processes have to end once interrupted, and once terminated; then they are killed."""
_SET_DEATH_SIGNAL, _SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h


def run_supervised(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a program until it ends, or this process is told to by SIGINT, SIGTERM or SIGHUP; its children end with it.

    A shell that starts a command in the background lets it ignore SIGINT, and children inherit that: here they do not.
    Where this process is killed, the program is interrupted.

    Returns:
        The program's exit code; 0 where it ended because it was told to.
    """
    prctl = _prctl()
    prctl(_SET_CHILD_SUBREAPER, 1)  # what outlives the program becomes a child of this process
    signal.pthread_sigmask(signal.SIG_BLOCK, _TOLD | {signal.SIGCHLD})

    def begin() -> None:
        for number in (*_TOLD, signal.SIGQUIT):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        prctl(_SET_DEATH_SIGNAL, signal.SIGINT)

    process = subprocess.Popen(command, env=environment, start_new_session=True, preexec_fn=begin)
    try:
        while process.poll() is None:
            if signal.sigwait(_TOLD | {signal.SIGCHLD}) != signal.SIGCHLD:
                return 0
        return process.returncode
    finally:
        _end_all(process)


def _end_all(process: "subprocess.Popen[bytes]") -> None:
    import psutil

    def left() -> list[psutil.Process]:
        return psutil.Process().children(recursive=True)

    if process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C in a terminal does
    psutil.wait_procs(left(), timeout=_INTERRUPTED_S)
    for child in left():
        child.terminate()
    psutil.wait_procs(left(), timeout=_TERMINATED_S)
    for child in left():
        child.kill()


def _prctl() -> Callable[[int, int], object]:
    if sys.platform != "linux":
        return lambda option, value: None
    function: Callable[[int, int], object] = ctypes.CDLL(None).prctl
    return function
