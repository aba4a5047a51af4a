"""The reader's side of a template process: the thread that starts it, and restarts it if it ends."""

import logging
import os
import select
import socket
import subprocess
import sys
import threading
import time

from forecache.realtime.workers.forking import MODULE
from forecache.realtime.workers.path_counters import PathCounters
from forecache.realtime.workers.procfs import is_stopped
from forecache.realtime.workers.worker_config import WorkerConfig

logger = logging.getLogger("forecache.realtime")
LEAST_START_S, START_TIMES = 5.0, 10.0
"""Time limit of a start, or so many times that of the last one if that is more."""
_MOST_LIMITS = 10.0
"""Largest limit after failed starts, as a multiple of the first limit."""
_RETRY_S, _MOST_RETRY_S = 0.3, 10.0
"""Pause before the template is restarted; it doubles with each failure in a row."""
_WATCH_EVERY_S = 0.2
_LOOK_EVERY_S = 0.05
_ENVIRONMENT = {
    **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
}
"""Settings so that a model runs on one thread, and importing a library starts none."""


class ProcessTemplate:
    """Starts model processes by forking a template process.

    The kernel kills the template and all its forks when the thread that started it ends; so that thread lives as long
    as the template.

    Args:
        start_s: Longest time of the first start. Later limits are learned from starts of the template only, since a
            fork takes a fraction of that time, and double with each failed start.

    Attributes:
        limit_s: Longest time of the next start, until the libraries are imported.
    """

    def __init__(self, orders: WorkerConfig, counters: PathCounters, *, start_s: float) -> None:
        self._orders, self._counters = orders, counters
        self.limit_s, self._most_s = start_s, _MOST_LIMITS * start_s
        self._failures = 0
        """Failures in a row since the last fork."""
        self._fault, self._logged_fault = "is ended", ""
        self._closing, self._ready, self._hung = threading.Event(), threading.Event(), threading.Event()
        self._asking = threading.Lock()
        self._channel: socket.socket | None = None
        self._thread = threading.Thread(target=self._run_until_closed, name="forecache-template", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def copy(self, memory: int, channel: int, *, timeout_s: float, cancelled: threading.Event) -> tuple[int, int]:
        """Fork a model process with these descriptors, once the template is ready.

        Args:
            timeout_s: Longest time that a ready template may take.
            cancelled: Set if the process is no longer needed.

        Returns:
            The process id, and a descriptor of the process.

        Raises:
            OSError: The template could not be started, ended, or does not answer in time; or `cancelled` was set.
        """
        failures = self._failures
        while not self._ready.wait(_LOOK_EVERY_S):
            if self._failures != failures or self._closing.is_set() or cancelled.is_set():
                raise OSError(f"the template that makes it {self._fault}")
        with self._asking:
            talks = self._channel
            if talks is None or self._hung.is_set():
                raise OSError("the template that makes it is started again")
            talks.settimeout(timeout_s)
            try:
                socket.send_fds(talks, [b"\0"], [memory, channel])
                message, given, _, _ = socket.recv_fds(talks, 8, 1)
            except TimeoutError:
                self._hung.set()
                raise OSError(f"the template that makes it did not answer within {timeout_s:.1f} s") from None
        if not given:
            raise OSError("the template that makes it ended")
        self._failures = 0
        return int.from_bytes(message, "little"), given[0]

    def close(self) -> None:
        """End the template and all its forks."""
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run_until_closed(self) -> None:
        while not self._closing.is_set():
            fault, figure = self._run()
            if self._closing.is_set():
                return
            self._counters.add("template_failures")
            if fault != self._logged_fault:
                logger.error(
                    "The template of the model processes of %s %s%s; it is started again.",
                    self._orders.folder, fault, figure,
                )  # fmt: skip
            self._fault = self._logged_fault = fault
            self._failures += 1
            self._closing.wait(min(_MOST_RETRY_S, _RETRY_S * 2 ** (self._failures - 1)))

    def _run(self) -> tuple[str, str]:
        """Start the template and watch it until it fails or is closed; return the reason of a failure, and a detail."""
        channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._hung.clear()
        self._counters.add("templates_started")
        began = time.monotonic()
        command = [sys.executable, "-m", MODULE, "template", self._orders.to_json(), str(theirs.fileno())]
        try:
            with theirs:
                process = subprocess.Popen(
                    [*command, str(os.getpid())],
                    stdin=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,  # Ctrl-C in a terminal reaches the reader alone
                    env={**_ENVIRONMENT, **os.environ},
                )
        except OSError as error:
            channel.close()
            return "cannot be started", f": {error}"
        try:
            fault = self._wait_until_ready(process, channel, began)
            if not (any(fault) or self._closing.is_set()):
                self._learn(time.monotonic() - began)
                self._channel = channel
                self._ready.set()
                fault = self._watch(process)
            return fault
        finally:
            self._ready.clear()
            process.kill()
            process.wait()
            with self._asking:
                self._channel = None
                channel.close()

    def _learn(self, took_s: float) -> None:
        if self._failures > 1:
            logger.warning(
                "The template of the model processes of %s is ready after %d failures: it took %.1f s.",
                self._orders.folder, self._failures, took_s,
            )  # fmt: skip
        self._logged_fault = ""
        self.limit_s = min(self._most_s, max(LEAST_START_S, START_TIMES * took_s))

    def _wait_until_ready(
        self, process: "subprocess.Popen[bytes]", channel: socket.socket, began: float
    ) -> tuple[str, str]:
        """Wait for the message that all libraries are imported; return the reason of a failure, else ""."""
        poll = select.poll()
        poll.register(channel, select.POLLIN)
        while not self._closing.is_set():
            if poll.poll(_LOOK_EVERY_S * 1000):
                return ("", "") if channel.recv(1) else _describe_end(process)
            if is_stopped(process.pid):
                return "was stopped by a signal", ""
            if time.monotonic() - began > self.limit_s:
                limit_s, self.limit_s = self.limit_s, min(self._most_s, 2 * self.limit_s)
                return "had not imported what the model needs in time", f", within {limit_s:.1f} s"
        return "", ""

    def _watch(self, process: "subprocess.Popen[bytes]") -> tuple[str, str]:
        """Wait until it fails or is closed; return the reason of a failure, else ""."""
        while not self._closing.wait(_WATCH_EVERY_S):
            if process.poll() is not None:
                return _describe_end(process)
            if self._hung.is_set():
                return "did not make a model process in time", ""
            if is_stopped(process.pid):
                return "was stopped by a signal", ""
        return "", ""


def _describe_end(process: "subprocess.Popen[bytes]") -> tuple[str, str]:
    code = process.wait()
    return ("was killed", f" by signal {-code}") if code < 0 else ("ended", f" with exit code {code}")
