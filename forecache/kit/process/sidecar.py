"""A sidecar: a child process that is started once it is needed, restarted if it ends, and stopped with its parent.

The parent calls `running_beside`, and the sidecar calls `stop_event`.
"""

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

logger = logging.getLogger("forecache")
_LOOK_S = 1.0
_AGAIN_S = 5.0
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
    stop = threading.Event()
    thread = threading.Thread(
        target=_keep_running, args=(arguments, what, is_needed, stop), name=f"forecache-{arguments[-1]}", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(_LAST_S + 2.0)


def stop_event(*, until_input_ends: bool) -> threading.Event:
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


def _keep_running(arguments: Sequence[str], what: str, is_needed: Callable[[], bool], stop: threading.Event) -> None:
    while not is_needed():
        if stop.wait(_LOOK_S):
            return
    while not stop.is_set():
        command = [sys.executable, "-m", "forecache.cli.main", *arguments, "--until-input-ends"]
        try:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
        except OSError as error:  # no memory, or too many processes, for a while
            logger.error("%s could not be started: %s", what, error)
            stop.wait(_AGAIN_S)
            continue
        with process:
            while process.poll() is None and not stop.wait(_LOOK_S):
                pass
            if stop.is_set():
                _stop_process(process)
                return
        logger.error("%s ended with the exit code %s.", what, process.returncode)
        stop.wait(_AGAIN_S)


def _stop_process(process: "subprocess.Popen[bytes]") -> None:
    assert process.stdin is not None
    with suppress(OSError):
        process.stdin.close()
    try:
        process.wait(_LAST_S)
    except subprocess.TimeoutExpired:
        process.kill()  # safe at any moment: the next process does the rest
