"""Pools of model processes on an event loop of their own, as in a reader."""

import asyncio
import os
import threading
import time
from collections.abc import Coroutine, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import faulty_scorer
import numpy as np
import psutil
import uvloop
from waiting import ThreadsBeside, eventually

from forecache.realtime.metrics import PathCounters
from forecache.realtime.workers.slot_memory import TEXT, SlotLayout, WorkerConfig
from forecache.realtime.workers.worker_path import ModelProcessPool, WorkerPath
from forecache.realtime.workers.worker_supervisor import SupervisorConfig

SUPPORT = Path(faulty_scorer.__file__).parent
TESTS = "MODEL_PROCESSES_OF"
"""Variable of the environment of model processes, by which a test knows those that it has started."""


class RunningPath:
    """A path whose loop runs in a thread.

    Attributes:
        lag_s: How long other work has delayed the loop in all, as far as a test has looked.
    """

    def __init__(self, path: WorkerPath, loop: asyncio.AbstractEventLoop, folder: Path) -> None:
        self.path, self.loop, self.folder = path, loop, folder
        self.counters = path.counters
        self.lag_s = 0.0

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(300)

    def score(self, rows: int = faulty_scorer.ROWS, *, deadline_ms: float = 10_000, fault: str = "") -> np.ndarray:
        request, found = faulty_scorer.request(rows, fault), faulty_scorer.found(rows)
        return self.run(self.path.score(request, found, time.monotonic() + deadline_ms / 1000))

    def fail(self, fault: str) -> None:
        (self.folder / faulty_scorer.FAULT).write_text(fault)

    def mend(self) -> None:
        (self.folder / faulty_scorer.FAULT).unlink(missing_ok=True)

    @property
    def pids(self) -> list[int]:
        """Of the warm processes."""
        return [worker.process.pid for worker in self.path.pool.workers]


@contextmanager
def running_path(folder: Path, *, size: int = 1, slots: int = 32, **plan: Any) -> Iterator[RunningPath]:
    """A path over faulty scorers; no process, thread or descriptor of it is left afterwards."""
    layout = SlotLayout(
        slots, 1 << 16, 200, {"fault": TEXT, "product": TEXT, "price": "float64"}, {"view": faulty_scorer.WIDTH}
    )
    loop = uvloop.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    counters = PathCounters()
    orders = WorkerConfig("faulty_scorer:load", str(folder), 0.005, layout)
    pool = ModelProcessPool(SupervisorConfig(size + 1, **plan), orders, loop=loop, counters=counters)
    path = WorkerPath(pool, counters, name="ranking")
    running = RunningPath(path, loop, folder)
    try:
        pool.open()
        assert eventually(lambda: len(running.pids) == size + 1)
        yield running
    finally:
        path.close()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def slowness() -> float:
    """How many processes want each core now, at least one: times that tests ask for hold on a machine of their own."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


class HeldUp(ThreadsBeside):
    """How long other work has kept a process from running, while the block runs: no fault of it if it is late by that.

    The kernel counts how long its main thread has waited for a core. That the machine as a whole stood still is seen by
    a thread here that sleeps for a moment again and again.
    """

    _PAUSE_S = 0.002

    def __init__(self, pid: int) -> None:
        super().__init__(self._sleep)
        self._schedstat, self._overslept_s = Path(f"/proc/{pid}/schedstat"), 0.0

    @property
    def seconds(self) -> float:
        """Until now."""
        return int(self._schedstat.read_text().split()[1]) / 1e9 + self._overslept_s

    def _sleep(self) -> None:
        while not self.stop.is_set():
            began = time.monotonic()
            time.sleep(self._PAUSE_S)
            self._overslept_s += max(0.0, time.monotonic() - began - self._PAUSE_S)


def model_processes() -> set[int]:
    """Ids of all model processes that this one has started, and those below it, that are not zombies.

    Tests that run beside these have model processes of their own, which come and go. An orphan is found, too: it has
    the environment that it was started with.
    """
    own, found = f"{TESTS}={os.getpid()}".encode(), set()
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            is_one = "forecache.realtime.workers" in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE
            if is_one and own in Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0"):
                found.add(process.pid)
    return found


def named_memory(pids: Iterable[int]) -> set[str]:
    """The files of shared memory and of semaphores that processes have mapped."""
    found: set[str] = set()
    for pid in pids:
        with suppress(psutil.Error):
            found |= {each.path for each in psutil.Process(pid).memory_maps(grouped=False)}
    return {path for path in found if path.startswith("/dev/shm/")}


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be reaped does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def num_open() -> int:
    """Descriptors and mapped memory of model processes that this process holds."""
    uvloop.new_event_loop().close()  # libuv opens a pipe with its first loop, and keeps it
    process = psutil.Process()
    mapped = [each.path for each in process.memory_maps(grouped=False) if "forecache-model" in each.path]
    return process.num_fds() + len(mapped)
