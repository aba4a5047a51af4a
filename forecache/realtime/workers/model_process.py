"""The reader's side of the processes of a model: the template that forks them, and each of them.

Each has a thread of the reader that starts, watches and ends it.
"""

import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from forecache.kit.process.child import is_readable, is_stopped, kill_group, read_own_memory
from forecache.kit.process.periodic import Backoff, PeriodicThread
from forecache.kit.process.wakes import MODEL_WATCH, TEMPLATE_WATCH
from forecache.realtime.metrics import PathCounters
from forecache.realtime.workers.slot_memory import (
    BEGUN_NS,
    MODULE,
    READY,
    SlotLayout,
    SlotMemory,
    WorkerConfig,
    create_memory,
)

logger = logging.getLogger("forecache.realtime")
LEAST_START_S, START_TIMES = 5.0, 10.0
"""Time limit of a template's start, or so many times that of the last one if that is more."""
_MOST_LIMITS = 10.0
"""Largest limit after failed starts, as a multiple of the first limit."""
_BACKOFF = Backoff(0.3, 10.0)
_LOOK_S = 0.05
_END_S = 1.0
_ENVIRONMENT = {
    **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
}
"""Settings so that a model runs on one thread, and importing a library starts none."""


class TemplateError(Exception):
    """A template process failed. `detail`: more about it; failures that differ in this alone are reported once."""

    def __init__(self, fault: str, detail: str = "") -> None:
        super().__init__(fault)
        self.detail = detail


class ProcessTemplate:
    """Starts model processes by forking a template process, which is restarted if it fails.

    The kernel kills the template and all its forks when the thread that started it ends; so that thread lives as long
    as the template.

    Args:
        start_s: Longest time of the first start. Later limits are learned from starts of the template only,
            since a fork takes a fraction of that time, and double with each failed start.
    """

    def __init__(self, config: WorkerConfig, counters: PathCounters, *, start_s: float) -> None:
        self._config, self._counters = config, counters
        self.limit_s, self._most_s = start_s, _MOST_LIMITS * start_s
        self._ready, self._hung = threading.Event(), threading.Event()
        self._asking = threading.Lock()
        self._channel: socket.socket | None = None
        self._thread = PeriodicThread(TEMPLATE_WATCH, self._run, at_once=True, backoff=_BACKOFF, report=self._report)

    def start(self) -> None:
        self._thread.start()

    def fork(self, memory: int, channel: int, *, timeout_s: float, cancelled: threading.Event) -> tuple[int, int]:
        """Fork a model process with these descriptors, once the template is ready.

        Returns:
            The process id, and a descriptor of the process.

        Raises:
            OSError: The template could not be started, ended, or does not answer in time; or `cancelled` was set.
        """
        thread, failures = self._thread, self._thread.failures
        while not self._ready.wait(_LOOK_S):
            if thread.failures != failures or thread.stopping.is_set() or cancelled.is_set():
                raise OSError(f"the template that makes it {thread.failure or 'is ended'}")
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
        thread.note_success()
        return int.from_bytes(message, "little"), given[0]

    def close(self) -> None:
        """End the template and all its forks."""
        self._thread.close()

    def _run(self) -> None:
        channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._hung.clear()
        self._counters.add("templates_started")
        began = time.monotonic()
        command = [sys.executable, "-m", MODULE, "template", self._config.to_json(), str(theirs.fileno())]
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
            raise self._failure("cannot be started", f": {error}") from None
        try:
            if self._wait_until_ready(process, channel, began):
                self._learn(time.monotonic() - began)
                self._channel = channel
                self._ready.set()
                self._watch(process)
        finally:
            self._ready.clear()
            process.kill()
            process.wait()
            with self._asking:
                self._channel = None
                channel.close()

    def _learn(self, took_s: float) -> None:
        if self._thread.failures > 1:
            logger.warning(
                "The template of the model processes of %s is ready after %d failures: it took %.1f s.",
                self._config.folder, self._thread.failures, took_s,
            )  # fmt: skip
        self.limit_s = min(self._most_s, max(LEAST_START_S, START_TIMES * took_s))

    def _wait_until_ready(self, process: "subprocess.Popen[bytes]", channel: socket.socket, began: float) -> bool:
        """Wait for the message that all libraries are imported; False if it is closed before."""
        while not self._thread.stopping.is_set():
            if is_readable(channel.fileno(), within_s=_LOOK_S):
                if channel.recv(1):
                    return True
                raise self._end_failure(process)
            if is_stopped(process.pid):
                raise self._failure("was stopped by a signal")
            if time.monotonic() - began > self.limit_s:
                limit_s, self.limit_s = self.limit_s, min(self._most_s, 2 * self.limit_s)
                raise self._failure("had not imported what the model needs in time", f", within {limit_s:.1f} s")
        return False

    def _watch(self, process: "subprocess.Popen[bytes]") -> None:
        while not self._thread.stopping.wait(TEMPLATE_WATCH.every_s):
            if process.poll() is not None:
                raise self._end_failure(process)
            if self._hung.is_set():
                raise self._failure("did not make a model process in time")
            if is_stopped(process.pid):
                raise self._failure("was stopped by a signal")

    def _end_failure(self, process: "subprocess.Popen[bytes]") -> TemplateError:
        code = process.wait()
        if code < 0:
            return self._failure("was killed", f" by signal {-code}")
        return self._failure("ended", f" with exit code {code}")

    def _failure(self, fault: str, detail: str = "") -> TemplateError:
        self._counters.add("template_failures")
        return TemplateError(fault, detail)

    def _report(self, error: Exception) -> None:
        logger.error(
            "The template of the model processes of %s %s%s; it is started again.",
            self._config.folder, error, getattr(error, "detail", ""),
        )  # fmt: skip


class ModelProcess:
    """One process and the thread that watches it.

    Args:
        start_s: Longest time from its start by the template until it is warm.
        call_s: Longest time of one warm-up call.
        on_event: Called in the thread with "ready" once the process is warm, and with a cause and a sentence
            when it should be replaced ("start": it did not become warm; "memory": it takes too much; "stopped":
            by a signal). The end of the process is detected on its channel.
    """

    def __init__(
        self, template: ProcessTemplate, layout: SlotLayout, *, start_s: float, call_s: float, grows_bytes: int,
        on_event: "Callable[[ModelProcess, str, str], None]", on_end: "Callable[[ModelProcess], None]",
    ) -> None:  # fmt: skip
        self._template, self._on_event, self._on_end = template, on_event, on_end
        self._start_s, self._call_s, self._grows_bytes = start_s, call_s, grows_bytes
        self.pid = 0
        self.ready_s = 0.0
        self.channel, self._theirs = socket.socketpair()
        self._descriptor = create_memory(layout)
        self.memory = SlotMemory(self._descriptor, layout)
        self._ending = threading.Event()
        self._gently = False
        self._thread = threading.Thread(target=self._run, name="forecache-model", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def end(self, *, gently: bool) -> None:
        """Have the thread end the process; `gently`: after its running calls. Returns at once."""
        self._gently = gently
        self._ending.set()

    def join(self, timeout_s: float) -> None:
        self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            self.pid, process = self._template.fork(
                self._descriptor, self._theirs.fileno(), timeout_s=self._start_s, cancelled=self._ending
            )
        except OSError as error:
            process = 0
            if not self._ending.is_set():
                self._on_event(self, "start", f"A model process cannot be started: {error}.")
        finally:
            os.close(self._descriptor)
            self._theirs.close()
        if process:
            if self._wait_until_warm(time.monotonic()):
                self._watch(process)
            self._finish(process)
        self.channel.close()
        self._on_end(self)

    def _wait_until_warm(self, began: float) -> bool:
        head = self.memory.head
        while not is_readable(self.channel.fileno(), within_s=_LOOK_S):
            now = time.monotonic()
            if self._ending.is_set():
                return False
            if now - began > self._start_s or (head[BEGUN_NS] and now - head[BEGUN_NS] / 1e9 > self._call_s):
                self._on_event(self, "start", f"A model process was not warm after {now - began:.1f} s.")
                return False
        message = b""
        with suppress(OSError):
            message = self.channel.recv(1)
        if message != READY:
            fault = self.memory.read_load_fault() or "it ended while it loaded"
            self._on_event(self, "start", f"A model process could not load the release: {fault}.")
            return False
        self.ready_s = time.monotonic() - began
        self.channel.setblocking(False)
        return True

    def _watch(self, process: int) -> None:
        most = read_own_memory(self.pid) + self._grows_bytes
        self._on_event(self, "ready", "")
        while not self._ending.wait(MODEL_WATCH.every_s) and not is_readable(process):
            taken = read_own_memory(self.pid)
            if taken > most:
                self._on_event(self, "memory", f"Model process {self.pid} takes {taken >> 20:,} MiB of memory.")
                most += self._grows_bytes
            elif is_stopped(self.pid):
                self._on_event(self, "stopped", f"Model process {self.pid} was stopped by a signal.")
                break
        self._ending.wait()

    def _finish(self, process: int) -> None:
        if self._gently:
            with suppress(OSError):
                self.channel.shutdown(socket.SHUT_WR)
            is_readable(process, within_s=_END_S)
        if not is_readable(process):
            kill_group(self.pid, process)  # the whole group: a model may have started processes
            is_readable(process, within_s=_END_S)
        os.close(process)
