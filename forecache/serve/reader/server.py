"""Start and stop of the reader: a main process that answers no requests, and a worker for each of its sockets."""

import asyncio
import errno
import ipaddress
import logging
import multiprocessing
import os
import resource
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType

import uvloop

from forecache.base.errors import ConflictError, SettingsError, UnavailableError
from forecache.base.plugins import find_hooks
from forecache.base.settings import Settings
from forecache.kit.http.connections import Connections
from forecache.kit.process.wakes import DRAIN, READER_WORKERS
from forecache.serve.reader.http.access import Access
from forecache.serve.reader.http.app import ReaderApp
from forecache.serve.reader.http.extension import MakeExtension
from forecache.serve.reader.shared_memory import ReaderSharedMemory
from forecache.serve.reader.worker_metrics import SLOT_BYTES, WorkerMetrics

BACKLOG = 4096
"""Most connections that wait in the kernel until a worker accepts them."""


def listen(host: str, port: int, *, anonymous: bool, count: int = 1) -> list[socket.socket]:
    """Open sockets that listen on a port, so that no other process can; the kernel spreads connections over them.

    Raises ConflictError if another process listens there, and SettingsError if the address is not this machine's, the
    port is reserved, or other machines could reach it and that is not `anonymous`.
    """
    listeners: list[socket.socket] = []
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        if not anonymous and not ipaddress.ip_address(address[0]).is_loopback:
            raise SettingsError(
                f"The reader has no tokens, and other machines would reach it on {host}.",
                remedy="Set FORECACHE_READER_TOKENS (`forecache tokens create` makes the file), or "
                "FORECACHE_READER_ANONYMOUS=true if the network is trusted.",
            )
        for number in range(count):
            listener = socket.socket(family, kind)
            listeners.append(listener)
            # A restart must not wait for connections of the previous reader; two listeners are refused all the same.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if number:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind(listeners[0].getsockname() if number else address)
            listener.listen(BACKLOG)
            # The first socket took the port exclusively; from here on this process's other sockets may share it.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.set_inheritable(True)
            listener.setblocking(False)
    except OSError as error:
        for listener in listeners:
            listener.close()
        if error.errno == errno.EADDRINUSE:
            remedy = "Stop the process that listens there, or choose another with --port or FORECACHE_READER_PORT."
            raise ConflictError(f"Port {port} on {host} is in use.", remedy=remedy) from None
        raise SettingsError(
            f"The reader cannot listen on {host} port {port}: {error.strerror}.",
            remedy="Set FORECACHE_READER_HOST to an address of this machine and the port to one above 1023.",
        ) from None
    return listeners


logger = logging.getLogger("forecache.reader")
CRASHES_ALLOWED, CRASHES_WITHIN_S = 10, 60.0
"""Most unexpected ends of workers within a time; after more the reader stops, so that its supervisor notices."""
STOP_TIMEOUT_S = 10.0
"""Seconds that requests in progress have once the reader has stopped accepting."""
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_PAUSE_S = 0.5
"""Before a worker that ended unexpectedly is replaced; its connections wait in its socket."""


def serve(
    settings: Settings,
    *,
    host: str | None = None,
    port: int | None = None,
    workers: int | None = None,
    drain_s: float | None = None,
    on_start: Callable[[str], None] | None = None,
    extensions: Sequence[MakeExtension] = (),
) -> None:
    """Serve the store until SIGTERM, SIGINT or SIGHUP; returns after a graceful stop.

    On the signal `/readyz` answers 503 at once. Requests are still answered, with `Connection: close`, until none has
    come for `reader_drain_s` seconds or `reader_max_drain_s` are over; then connections are finished and closed. A
    second signal ends the wait.

    Args:
        host, port, workers, drain_s: Override the settings `reader_host`, `reader_port`, `reader_workers`,
            `reader_drain_s`.
        on_start: Called with the reader's URL before the workers start.
        extensions: Each makes an extension for every worker, in the worker's process.

    Raises:
        ConflictError: The port is taken.
        SettingsError: The address cannot be used or is open to others without tokens, or the token file cannot be read.
        UnavailableError: The workers ended unexpectedly too often.
    """
    given = {"reader_host": host, "reader_port": port, "reader_workers": workers, "reader_drain_s": drain_s}
    settings = settings.model_copy(update={name: value for name, value in given.items() if value is not None})
    host, port = settings.reader_host, settings.reader_port
    if settings.reader_tokens is not None:
        Access(settings.reader_tokens)  # report a wrong file once, here, and not in every worker
    _raise_file_limit(settings.reader_max_connections)
    anonymous = settings.reader_tokens is not None or settings.reader_anonymous
    listeners = listen(host, port, anonymous=anonymous, count=settings.reader_workers)
    # Two slots per worker: one that replaces another begins to count while that one may still be ending.
    num_slots, history_bytes = 2 * settings.reader_workers, sum(find_hooks("reader_history_bytes"))
    runtime = ReaderSharedMemory.create(num_slots=num_slots, slot_bytes=SLOT_BYTES, history_bytes=history_bytes)
    try:
        if on_start is not None:
            at, port = listeners[0].getsockname()[:2]
            on_start(f"http://[{at}]:{port}" if ":" in at else f"http://{at}:{port}")
        _MainProcess(settings, listeners, runtime, extensions).run()
    finally:
        for listener in listeners:
            listener.close()
        runtime.remove()


class _MainProcess:
    """The main process: keeps a worker running for each socket.

    No other process can take the port, the kernel spreads connections over the sockets, and while a worker is replaced
    its connections wait.
    """

    def __init__(
        self, settings: Settings, listeners: Sequence[socket.socket], runtime: ReaderSharedMemory,
        extensions: Sequence[MakeExtension],
    ) -> None:  # fmt: skip
        self._settings, self._listeners, self._runtime = settings, listeners, runtime
        self._extensions = tuple(extensions)
        self._workers: dict[int, BaseProcess] = {}
        self._due: dict[int, float] = {}
        self._crashes: list[float] = []
        self._last_end = ""
        self._signals = 0

    def run(self) -> None:
        with self._count_signals() as woken:
            try:
                for place in range(len(self._listeners)):
                    self._start(place)
                while not self._signals:
                    self._replace_ended(woken)
                self._runtime.start_draining()
                self._drain(woken)
            finally:
                self._stop()

    def _start(self, place: int) -> None:
        # Forked: the worker inherits the socket, and all imported modules.
        given = (self._settings, self._runtime.path, self._listeners, place, self._extensions)
        fork = multiprocessing.get_context("fork")
        worker = fork.Process(target=_run_worker, args=given, name=f"forecache-reader-{place}")
        worker.start()
        self._workers[place] = worker

    def _replace_ended(self, woken: int) -> None:
        """Wait for a signal, the end of a worker or a due restart; replace workers that have ended."""
        now = time.monotonic()
        for place in [place for place, due in self._due.items() if due <= now]:
            del self._due[place]
            self._start(place)
        pause_s = min(self._due.values(), default=now + READER_WORKERS.every_s) - now
        wait([woken, *(worker.sentinel for worker in self._workers.values())], max(0.0, pause_s))
        for place, worker in list(self._workers.items()):
            if not worker.is_alive() and not self._signals:
                self._note_crash(place, worker)

    def _note_crash(self, place: int, worker: BaseProcess) -> None:
        """Record a worker that ended without a signal, and schedule another; too many are an UnavailableError."""
        worker.join()
        del self._workers[place]
        self._last_end = _describe_end(worker)
        self._runtime.count_crash()
        logger.error("A worker ended unexpectedly, by %s; %d have so far.", self._last_end, self._runtime.crashes)
        now = time.monotonic()
        self._crashes = [*(moment for moment in self._crashes if now - moment < CRASHES_WITHIN_S), now]
        if len(self._crashes) > CRASHES_ALLOWED * self._settings.reader_workers:
            raise UnavailableError(
                f"The reader stops: its workers ended {self._runtime.crashes} times, the last by {self._last_end}.",
                remedy="See the log above for the cause; a supervisor may start the reader again.",
            )
        self._due[place] = now + _PAUSE_S

    def _drain(self, woken: int) -> None:
        """Wait until balancers send no more requests; a second signal ends the wait.

        How long a balancer takes to notice that the reader is not ready depends on the balancer's machine, so what
        comes decides, not a fixed time.
        """
        quiet_s = self._settings.reader_drain_s
        last = time.monotonic()
        most = last + max(quiet_s, self._settings.reader_max_drain_s)
        slots = WorkerMetrics.open_all(self._runtime)
        num_before = sum(slot.num_asked for slot in slots)
        while self._signals < 2 and (left_s := min(last + quiet_s, most) - time.monotonic()) > 0:
            wait([woken], min(left_s, DRAIN.every_s))
            _empty_pipe(woken)
            num_asked = sum(slot.num_asked for slot in slots)
            if num_asked != num_before:
                num_before, last = num_asked, time.monotonic()

    def _stop(self) -> None:
        for listener in self._listeners:
            listener.close()
        for worker in self._workers.values():
            worker.terminate()
        until = time.monotonic() + STOP_TIMEOUT_S
        for worker in self._workers.values():
            worker.join(max(0.0, until - time.monotonic()))
            if worker.is_alive():
                logger.warning("A worker did not stop within %g s and is killed.", STOP_TIMEOUT_S)
                worker.kill()
                worker.join()

    @contextmanager
    def _count_signals(self) -> Iterator[int]:
        """Count signals to stop while the block runs; the descriptor becomes readable with each."""
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        os.set_blocking(writing, False)

        def count_signal(number: int, frame: FrameType | None) -> None:
            self._signals += 1
            with suppress(BlockingIOError):  # it is readable already
                os.write(writing, b"x")

        # Signals that are already ignored, as under nohup and a shell's `&`, stay ignored; SIGTERM always ends it.
        before = {
            number: signal.signal(number, count_signal)
            for number in _STOP_SIGNALS
            if number == signal.SIGTERM or signal.getsignal(number) != signal.SIG_IGN
        }
        try:
            yield reading
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(reading)
            os.close(writing)


def _run_worker(
    settings: Settings,
    shared: Path,
    listeners: Sequence[socket.socket],
    place: int,
    extensions: Sequence[MakeExtension],
) -> None:
    """Answer requests on the worker's socket until SIGTERM; requests in progress are finished first."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for other, listener in enumerate(listeners):
        if other != place:
            listener.close()
    # A separate process group, so that Ctrl-C in a terminal reaches only the main process, which drains first.
    os.setpgid(0, 0)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s[%(process)d]: %(message)s")
    app = ReaderApp(settings, ReaderSharedMemory(shared, SLOT_BYTES), extensions)
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        loop.run_until_complete(_answer_until_stopped(settings, app, listeners[place]))
    finally:
        loop.close()


async def _answer_until_stopped(settings: Settings, app: ReaderApp, listener: socket.socket) -> None:
    loop, told = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, told.set)
    most, timeout_s = settings.reader_max_connections, settings.reader_request_timeout_s
    app.connections = connections = Connections(
        loop, listener, app.handle, most=most, timeout_s=timeout_s, shedder=app.shedder
    )
    app.open(loop)
    connections.start()
    await told.wait()
    await connections.drain()
    app.close()


def _empty_pipe(descriptor: int) -> None:
    try:
        while os.read(descriptor, 64):
            pass
    except BlockingIOError:
        return


def _describe_end(worker: BaseProcess) -> str:
    code = worker.exitcode
    return signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"


def _raise_file_limit(max_connections: int) -> None:
    """Raise this process's limit of open files as far as the system allows: connections and segments need them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max_connections * 2 + 4096
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
