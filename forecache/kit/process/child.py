"""Child processes: they end with their parent, are ended cleanly, and are waited for until they are ready.

A sidecar is one that is started once it is needed, and again if it ends: the parent calls `run_sidecar`, the sidecar
`stop_event`.
"""

import ctypes
import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from forecache.base.errors import UnavailableError
from forecache.kit.process.periodic import Backoff, PeriodicThread
from forecache.kit.process.wakes import SIDECARS

_STOP_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
_INTERRUPTED_S, _TERMINATED_S = 15.0, 5.0
"""Seconds that processes have to end after SIGINT, and then after SIGTERM, before they are killed."""
_SET_PARENT_DEATH_SIGNAL, _SET_TIMER_SLACK, _SET_CHILD_SUBREAPER = 1, 29, 36  # linux/prctl.h
_YIELD_S = 0.00005
_LOOK_S = 0.05
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
logger = logging.getLogger("forecache")
_BACKOFF = Backoff(5.0, 60.0)


def end_with_parent(number: signal.Signals = signal.SIGKILL, *, parent: int | None = None) -> None:
    """Have the kernel send this process a signal when its parent ends for any reason (Linux only).

    The parent is the thread that started this process. SystemExit if it has ended already.
    """
    if sys.platform != "linux":
        return
    parent = os.getppid() if parent is None else parent
    _set_process_option(_SET_PARENT_DEATH_SIGNAL, number)
    if os.getppid() != parent:
        raise SystemExit("The parent process has ended.")


def shorten_waits() -> None:
    """Let this thread, which answers requests, go on within some 0.1 ms while other threads run Python code.

    By default it waits 5 ms for the interpreter's lock, and the kernel may end any wait 50 us late.
    """
    sys.setswitchinterval(_YIELD_S)
    _set_process_option(_SET_TIMER_SLACK, 1)


@contextmanager
def interrupt_at_sigterm() -> Iterator[None]:
    """Let SIGTERM interrupt the block as Ctrl-C does, so that what it holds is freed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def reset_sigterm() -> None:
    """Restore SIGTERM's default action, because a parent that ignores or blocks the signal passes that on."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def end_process(process: "subprocess.Popen[bytes]", *, within_s: float) -> None:
    """Ask a child process to end by SIGTERM; if it has not in time, kill it, and the process group that it leads."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(within_s)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.wait()


def wait_until_ready(process: "subprocess.Popen[bytes]", url: str, *, within_s: float) -> bool:
    """Wait until a child process answers an HTTP request; False if it ends, or does not in time."""
    give_up = time.monotonic() + within_s
    while process.poll() is None and time.monotonic() < give_up:
        try:
            with urllib.request.urlopen(url, timeout=10):
                return True
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(_LOOK_S)
    return False


def is_readable(descriptor: int, *, within_s: float = 0.0) -> bool:
    """Wait until a descriptor is readable, as a pidfd is once its process has ended; False after the time."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(within_s * 1000))


def kill_group(pid: int, descriptor: int) -> None:
    """Kill the process of a pidfd, and those of the process group that it leads."""
    with suppress(OSError):
        os.killpg(pid, signal.SIGKILL)
    with suppress(OSError):  # it may not lead a group yet
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)


def read_own_memory(pid: int) -> int:
    """Read the resident bytes that a process does not share through files; 0 if they cannot be read."""
    try:
        with open(f"/proc/{pid}/statm") as file:
            _, resident, shared, *_ = file.read().split()
    except (OSError, ValueError):
        return 0
    return (int(resident) - int(shared)) * _PAGE_BYTES


def is_stopped(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] in "Tt"
    except (OSError, IndexError):
        return False


def run_supervised(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a program until it ends or this process gets SIGINT, SIGTERM or SIGHUP; its child processes end with it.

    A command that a shell starts in the background ignores SIGINT, and child processes inherit that; here they do not.
    If this process is killed, the program gets SIGINT. Returns its exit code; 0 if a signal to this process ended it.
    """
    # Processes that outlive the program become children of this process.
    _set_process_option(_SET_CHILD_SUBREAPER, 1)
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS | {signal.SIGCHLD})

    def prepare() -> None:
        for number in (*_STOP_SIGNALS, signal.SIGQUIT):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        _set_process_option(_SET_PARENT_DEATH_SIGNAL, signal.SIGINT)

    process = subprocess.Popen(command, env=environment, start_new_session=True, preexec_fn=prepare)
    try:
        while process.poll() is None:
            if signal.sigwait(_STOP_SIGNALS | {signal.SIGCHLD}) != signal.SIGCHLD:
                return 0
        return process.returncode
    finally:
        _end_children(process)


def _end_children(process: "subprocess.Popen[bytes]") -> None:
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


def _set_process_option(option: int, value: int) -> None:
    _prctl(option, value, 0, 0, 0)


_prctl: Callable[..., object] = ctypes.CDLL(None).prctl if sys.platform == "linux" else lambda *_: None


@contextmanager
def run_sidecar(
    arguments: Sequence[str], *, what: str, is_needed: Callable[[], bool], last_s: float = 5.0
) -> Iterator[None]:
    """Keep `forecache ARGUMENTS --until-input-ends` running as a child process while the block runs.

    It is a process of its own, because a lake that hangs must not delay answers. Its command ends with its standard
    input, and so also if this process is killed. `what` names it in the log; `is_needed` is called each second until
    there is something to do. At the end of the block it has `last_s` seconds to finish.
    """
    command = [sys.executable, "-m", "forecache.cli.main", *arguments, "--until-input-ends"]

    def run_if_needed() -> None:
        if is_needed():
            _run_until_stopped(thread, command, what, last_s)

    def report(error: Exception) -> None:
        logger.error("%s", error)

    thread = PeriodicThread(
        SIDECARS, run_if_needed, at_once=True, backoff=_BACKOFF, report=report, close_s=last_s + 2.0
    )
    with thread:
        yield


def stop_event(*, until_input_ends: bool = False) -> threading.Event:
    """Return an event that is set when this process is to stop: at SIGTERM or SIGINT.

    With `until_input_ends` it is a sidecar: it stops at the end of its input, too, and its priority is lowered.
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


def _run_until_stopped(thread: PeriodicThread, command: Sequence[str], what: str, last_s: float) -> None:
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
            process.wait(last_s)
        except subprocess.TimeoutExpired:
            process.kill()  # safe at any moment: the next process does the rest
