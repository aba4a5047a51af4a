"""The reader's side of a model process: its memory, its channel, and the thread that starts, watches and ends it."""

import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from forecache.realtime.workers.procfs import is_stopped, own_memory_bytes
from forecache.realtime.workers.serving import READY
from forecache.realtime.workers.slot_memory import BEGUN_NS, SlotLayout, SlotMemory, create_memory
from forecache.realtime.workers.template import ProcessTemplate

_WATCH_EVERY_S = 0.2
_LOOK_EVERY_S = 0.05
_END_S = 1.0


class ModelProcess:
    """One process and the thread that watches it.

    Args:
        start_s: Longest time from its start by the template until it is warm.
        call_s: Longest time of one warm-up call.
        grows_bytes: Memory that it may take beyond that at the end of warm-up.
        on_ready: Called in the thread once the process is warm.
        on_unfit: Called in the thread when the process should be replaced, with the cause ("start": it did not become
            warm, "memory": it takes too much, "stopped": by a signal) and a sentence. The end of the process is
            detected on its channel.
        on_end: Called in the thread when the process has ended.

    Attributes:
        ready_s: Seconds from its start by the template until it was warm.
    """

    def __init__(
        self,
        template: ProcessTemplate,
        layout: SlotLayout,
        *,
        start_s: float,
        call_s: float,
        grows_bytes: int,
        on_ready: "Callable[[ModelProcess], None]",
        on_unfit: "Callable[[ModelProcess, str, str], None]",
        on_end: "Callable[[ModelProcess], None]",
    ) -> None:
        self._template, self._start_s, self._call_s, self._grows_bytes = template, start_s, call_s, grows_bytes
        self._on_ready, self._on_unfit, self._on_end = on_ready, on_unfit, on_end
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
            self.pid, process = self._template.copy(
                self._descriptor, self._theirs.fileno(), timeout_s=self._start_s, cancelled=self._ending
            )
        except OSError as error:
            process = 0
            if not self._ending.is_set():
                self._on_unfit(self, "start", f"A model process cannot be started: {error}.")
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
        poll = select.poll()
        poll.register(self.channel, select.POLLIN)
        head = self.memory.head
        while not poll.poll(_LOOK_EVERY_S * 1000):
            now = time.monotonic()
            if self._ending.is_set():
                return False
            if now - began > self._start_s or (head[BEGUN_NS] and now - head[BEGUN_NS] / 1e9 > self._call_s):
                self._on_unfit(self, "start", f"A model process was not warm after {now - began:.1f} s.")
                return False
        said = b""
        with suppress(OSError):
            said = self.channel.recv(1)
        if said != READY:
            fault = self.memory.read_load_fault() or "it ended while it loaded"
            self._on_unfit(self, "start", f"A model process could not load the release: {fault}.")
            return False
        self.ready_s = time.monotonic() - began
        self.channel.setblocking(False)
        return True

    def _watch(self, process: int) -> None:
        most = own_memory_bytes(self.pid) + self._grows_bytes
        self._on_ready(self)
        while not self._ending.wait(_WATCH_EVERY_S) and not _has_ended(process):
            taken = own_memory_bytes(self.pid)
            if taken > most:
                self._on_unfit(self, "memory", f"Model process {self.pid} takes {taken >> 20:,} MiB of memory.")
                most += self._grows_bytes
            elif is_stopped(self.pid):
                self._on_unfit(self, "stopped", f"Model process {self.pid} was stopped by a signal.")
                break
        self._ending.wait()

    def _finish(self, process: int) -> None:
        if self._gently:
            with suppress(OSError):
                self.channel.shutdown(socket.SHUT_WR)
            _has_ended(process, within_s=_END_S)
        if not _has_ended(process):
            with suppress(OSError):  # the whole group: a model may have started processes
                os.killpg(self.pid, signal.SIGKILL)
            with suppress(OSError):
                signal.pidfd_send_signal(process, signal.SIGKILL)
            _has_ended(process, within_s=_END_S)
        os.close(process)


def _has_ended(process: int, *, within_s: float = 0.0) -> bool:
    poll = select.poll()
    poll.register(process, select.POLLIN)
    return bool(poll.poll(within_s * 1000))
