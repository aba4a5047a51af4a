"""A sidecar: a child process that is started once it is needed, restarted if it ends, and stopped with its parent.

The parent calls `run_sidecar`, and the sidecar calls `stop_event`.
"""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from forecache.base.errors import UnavailableError
from forecache.kit.process.periodic import Backoff, PeriodicThread
from forecache.kit.process.wakes import SIDECARS

logger = logging.getLogger("forecache")
_BACKOFF = Backoff(5.0, 60.0)
_LAST_S = 5.0


@contextmanager
def run_sidecar(arguments: Sequence[str], *, what: str, is_needed: Callable[[], bool]) -> Iterator[None]:
    """Keep `forecache ARGUMENTS --until-input-ends` running as a child process while the block runs.

    It is a process of its own, because a lake that hangs must not delay answers.

    Args:
        arguments: Arguments of a command that ends with its standard input, and so also if this process is killed.
        what: Name of the process in the log.
        is_needed: Returns True once there is something to do; called each second until then.
    """
    command = [sys.executable, "-m", "forecache.cli.main", *arguments, "--until-input-ends"]

    def run_if_needed() -> None:
        if is_needed():
            _run_until_stopped(thread, command, what)

    def report(error: Exception) -> None:
        logger.error("%s", error)

    thread = PeriodicThread(
        SIDECARS, run_if_needed, at_once=True, backoff=_BACKOFF, report=report, close_s=_LAST_S + 2.0
    )
    with thread:
        yield


def stop_event(*, until_input_ends: bool = False) -> threading.Event:
    """An event that is set when this process is to stop: at SIGTERM, SIGINT or the end of its input.

    Args:
        until_input_ends: Stop also at the end of the input, and lower the priority: this process is a sidecar.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())

    def wait() -> None:
        sys.stdin.buffer.read()
        stop.set()

    if until_input_ends:
        os.nice(5)
        threading.Thread(target=wait, daemon=True).start()
    return stop


def _run_until_stopped(thread: PeriodicThread, command: Sequence[str], what: str) -> None:
    try:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    except OSError as error:  # no memory, or too many processes, for a while
        raise UnavailableError(f"{what} could not be started: {error}") from None
    began = time.monotonic()
    with process:
        while process.poll() is None and not thread.stopping.wait(SIDECARS.every_s):
            if time.monotonic() - began > _BACKOFF.longest_s:
                thread.note_success()
        if not thread.stopping.is_set():
            raise UnavailableError(f"{what} ended with the exit code {process.returncode}.")
        assert process.stdin is not None
        with suppress(OSError):
            process.stdin.close()
        try:
            process.wait(_LAST_S)
        except subprocess.TimeoutExpired:
            process.kill()  # safe at any moment: the next process does the rest
