"""Run a program, and end it with all its child processes whichever signal stops this process."""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence

_STOP_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
_INTERRUPTED_S, _TERMINATED_S = 15.0, 5.0
"""Seconds that processes have to end after SIGINT, and then after SIGTERM, before they are killed."""
_SET_DEATH_SIGNAL, _SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h


def run_supervised(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a program until it ends or this process gets SIGINT, SIGTERM or SIGHUP; its child processes end with it.

    A command that a shell starts in the background ignores SIGINT, and child processes inherit that; here they do not.
    If this process is killed, the program gets SIGINT.

    Returns:
        The program's exit code; 0 if a signal to this process ended it.
    """
    prctl = _prctl()
    prctl(_SET_CHILD_SUBREAPER, 1)  # processes that outlive the program become children of this process
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS | {signal.SIGCHLD})

    def reset_signals() -> None:
        for number in (*_STOP_SIGNALS, signal.SIGQUIT):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        prctl(_SET_DEATH_SIGNAL, signal.SIGINT)

    process = subprocess.Popen(command, env=environment, start_new_session=True, preexec_fn=reset_signals)
    try:
        while process.poll() is None:
            if signal.sigwait(_STOP_SIGNALS | {signal.SIGCHLD}) != signal.SIGCHLD:
                return 0
        return process.returncode
    finally:
        _end_all(process)


def _end_all(process: "subprocess.Popen[bytes]") -> None:
    import psutil

    def running_children() -> list[psutil.Process]:
        return psutil.Process().children(recursive=True)

    if process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C in a terminal does
    psutil.wait_procs(running_children(), timeout=_INTERRUPTED_S)
    for child in running_children():
        child.terminate()
    psutil.wait_procs(running_children(), timeout=_TERMINATED_S)
    for child in running_children():
        child.kill()


def _prctl() -> Callable[[int, int], object]:
    if sys.platform != "linux":
        return lambda option, value: None
    function: Callable[[int, int], object] = ctypes.CDLL(None).prctl
    return function
