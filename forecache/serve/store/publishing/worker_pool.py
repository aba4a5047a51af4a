"""A pool of worker processes, mainly for publishing; small work runs in this process instead.

A worker is a fresh interpreter that runs this module: it inherits neither a JVM nor locks, and it does not run the main
module of the publishing program again, as the processes of `concurrent.futures` do. Calls and results are pickled over
a socket; when it closes, the worker ends.
"""

import os
import queue
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any, TypeVar

from forecache.base.errors import ForecacheError
from forecache.base.settings import PROJECT_ROOT

INLINE_ROWS = 300_000
"""Up to so many rows, one process is done before others have started."""

_MAX_WORKERS = 8
Result = TypeVar("Result")


def num_workers(rows: int) -> int:
    """Number of worker processes for so many rows; 0: run in this process."""
    return 0 if rows <= INLINE_ROWS else num_cores()


def num_cores() -> int:
    """Number of cores that a publish may keep busy."""
    return min(len(os.sched_getaffinity(0)), _MAX_WORKERS)


class ProcessPool:
    """Runs functions in worker processes (by their connections in `processes`); with 0 workers, in this process."""

    def __init__(self, workers: int, *, of: str = "publishing") -> None:
        self.processes = dict(_start() for _ in range(workers))
        self._of = of

    def map(
        self,
        function: Callable[..., Result],
        jobs: Sequence[dict[str, Any]],
        *,
        done: Callable[[int], None] = lambda count: None,
    ) -> list[Result]:
        """The results of a call for each job, in their order; the error of a job that fails is raised here.

        The function is of a module, so that it can be pickled; jobs are keyword arguments. `done` is called with the
        number of finished jobs after each.
        """
        results: dict[int, Result] = {}
        if not self.processes:
            for number, job in enumerate(jobs):
                results[number] = function(**job)
                done(len(results))
            return list(results.values())
        waiting = list(enumerate(jobs))[::-1]
        idle, running = list[Any](self.processes), dict[Any, int]()
        while waiting or running:
            while idle and waiting:
                connection = idle.pop()
                running[connection], job = waiting.pop()
                self._send(connection, (function, job))
            for connection in wait(list(running)):
                results[running.pop(connection)] = self._receive(connection)
                idle.append(connection)
                done(len(results))
        return [results[number] for number in range(len(jobs))]

    def _send(self, connection: Any, call: Any) -> None:
        try:
            connection.send(call)
        except ConnectionError:
            raise self._death_error(connection) from None

    def _receive(self, connection: Any) -> Any:
        try:
            result, error = connection.recv()
        except (EOFError, OSError):  # at a message's end, or in the middle of one
            raise self._death_error(connection) from None
        if error is not None:
            raise error
        return result

    def _death_error(self, connection: Any) -> ForecacheError:
        return ForecacheError(
            f"A {self._of} worker process died with status {self.processes[connection].wait()}.",
            remedy="It may have run out of memory; nothing was written.",
        )

    def close(self) -> None:
        for connection, process in self.processes.items():
            connection.close()
            process.wait()
        self.processes = {}

    def __enter__(self) -> "ProcessPool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _start() -> tuple[Connection, subprocess.Popen[bytes]]:
    path = os.pathsep.join([str(PROJECT_ROOT), *filter(None, sys.path)])
    ours, theirs = Pipe()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        )
    return ours, process


def _run_worker(connection: Connection) -> None:
    os.dup2(2, 1)  # standard output belongs to the publisher's answer; libraries print to standard error
    calls: queue.SimpleQueue[tuple[Callable[..., Any], dict[str, Any]]] = queue.SimpleQueue()
    threading.Thread(target=_read_calls, args=(connection, calls), daemon=True).start()
    import pyarrow as pa

    import forecache.serve.store.publishing.full  # noqa: F401 - it loads while the publisher plans

    pa.set_cpu_count(1)
    while True:
        connection.send(_call_function(*calls.get()))
        pa.default_memory_pool().release_unused()


def _read_calls(connection: Connection, calls: "queue.SimpleQueue[tuple[Callable[..., Any], dict[str, Any]]]") -> None:
    try:
        while True:
            calls.put(connection.recv())
    finally:  # the publisher is gone
        os._exit(0)


def _call_function(function: Callable[..., Any], arguments: dict[str, Any]) -> tuple[Any, Exception | None]:
    try:
        return function(**arguments), None
    except ForecacheError as error:
        return None, error
    except Exception:  # noqa: BLE001 - the publisher raises it again, with this traceback
        return None, RuntimeError(f"A publishing worker failed:\n{traceback.format_exc()}")


if __name__ == "__main__":
    _run_worker(Connection(int(sys.argv[1])))
