"""Processes that are started again when they have ended, as a service manager does it."""

import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

import psutil
from _store.processes import ROOT, BenchmarkError, stop

_LOOK_S = 0.02
_TAIL = 15
_MOST_ENDS = 3


class Service(AbstractContextManager["Service"]):
    """A process that is started again whenever it has ended, until the block ends.

    Attributes:
        kills: How often `kill` has killed it.
        ended: How often it has ended by itself with an error, which no service may.
        is_done: It has ended by itself without an error, and is not started again.
    """

    def __init__(self, name: str, command: Sequence[str | Path], log: Path, environment: Mapping[str, str]) -> None:
        self.name, self.kills, self.ended, self.is_done = name, 0, 0, False
        self.log = log
        self._command, self._environment = (
            list(map(str, command)),
            {**os.environ, **environment, "PYTHONUNBUFFERED": "1"},
        )
        self._lock, self._over = threading.Lock(), threading.Event()
        self._was_killed = False
        self._process = self._start()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    @property
    def pid(self) -> int:
        return self._process.pid

    def __enter__(self) -> "Service":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        stop(self._process)

    def kill(self) -> bool:
        """SIGKILL to it and its children; whether it ran."""
        with self._lock:
            if self._process.poll() is not None:
                return False
            self._was_killed = True
            kill_tree(self._process.pid)
            self.kills += 1
        return True

    def _start(self) -> "subprocess.Popen[bytes]":
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with open(self.log, "ab") as output:
            return subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, cwd=ROOT,
                env=self._environment, start_new_session=True,
            )  # fmt: skip

    def _watch(self) -> None:
        while not self._over.wait(_LOOK_S):
            with self._lock:
                code = self._process.poll()
                if code is None:
                    continue
                if not self._was_killed and code == 0:
                    self.is_done = True
                    return
                self.ended += not self._was_killed
                self._was_killed = False
                if self.ended > _MOST_ENDS:
                    return
                self._process = self._start()

    def check(self) -> None:
        """
        Raises:
            BenchmarkError: It has ended by itself again and again.
        """
        if self.ended > _MOST_ENDS:
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-_TAIL:])
            raise BenchmarkError(f"{self.name} has ended {self.ended} times by itself. Its log ends:\n{tail}")


def kill_tree(pid: int) -> None:
    """SIGKILL to a process and all that it started, and wait until they are gone."""
    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for each in family:
        try:
            each.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(family, timeout=20)
