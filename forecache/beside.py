"""A process beside another one: started once needed, again where it ends, and ended with the other one.

`running_beside` is called in the other one, and `stop_event` in the process itself.
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
def running_beside(arguments: Sequence[str], *, what: str, is_needed: Callable[[], bool]) -> Iterator[None]:
    """Have `forecache ARGUMENTS --until-input-ends` run beside this process while the block runs.

    It is another process, since a lake that hangs must not take time from answers.

    Args:
        arguments: Of a command that ends when its standard input does, so also when this process is killed.
        what: Names the process in the log.
        is_needed: Whether there is something to do; asked each second until there is.
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
    """An event that is set when this process is told to stop: by SIGTERM, SIGINT or, if so, the end of its input.

    Args:
        until_input_ends: Whether `running_beside` has started this process; then it also gives way to the other one.
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
                _end(process)
                return
        logger.error("%s ended with the exit code %s.", what, process.returncode)
        stop.wait(_AGAIN_S)


def _end(process: "subprocess.Popen[bytes]") -> None:
    assert process.stdin is not None
    with suppress(OSError):
        process.stdin.close()
    try:
        process.wait(_LAST_S)
    except subprocess.TimeoutExpired:
        process.kill()  # at any moment: what it has not done, the next one does
