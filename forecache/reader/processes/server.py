"""Starts and stops the reader: Granian's RSGI server, one process per worker."""

import logging
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from granian import Granian
from granian.http import HTTP1Settings, HTTP2Settings
from granian.log import LogLevels
from granian.net import SocketHolder  # type: ignore[attr-defined]

from forecache.errors import UnavailableError
from forecache.reader.http.access import Access
from forecache.reader.http.app import ReaderApp
from forecache.reader.http.extension import MakeExtension
from forecache.reader.http.limits import MAX_HEAD_BYTES
from forecache.reader.processes.listeners import BACKLOG, listen
from forecache.reader.processes.metrics import SLOT_BYTES
from forecache.reader.processes.shared_memory import Runtime
from forecache.reader.status.history import HISTORY_BYTES
from forecache.settings import Settings

logger = logging.getLogger("forecache.reader")
DRAIN_S = 2.0
HTTP2_WINDOW_BYTES = 256 * 1024
"""Bytes that an HTTP/2 client may send ahead of being read, for one request and for all of a connection."""
HTTP2_STREAMS = 64
CRASHES_ALLOWED, CRASHES_WITHIN_S = 10, 60.0
"""Most unexpected ends of workers within a time; after more the reader stops, so that its supervisor notices."""
STOP_TIMEOUT_S = 10
"""Seconds that requests in progress have once the reader has stopped accepting."""


class _Server(Granian):  # type: ignore[valid-type,misc]
    """Granian with a pause between the stop signal and the end of accepting, so that load balancers notice.

    Each worker accepts from its own socket, which the main process opened. No other process can take the port, the
    kernel spreads connections over the sockets, and while a worker is replaced its connections wait.
    """

    runtime: Runtime
    drain_s: float
    listeners: Sequence[socket.socket]
    last_end = ""
    _crashes: Sequence[float] = ()

    def _init_shared_socket(self) -> None:
        self._ssp = None  # Granian's own socket would let other processes listen on the port

    def _spawn_worker(self, idx: int, *args: Any, **kwargs: Any) -> Any:
        self._sso: Any = self.listeners[idx]
        self._shd: Any = SocketHolder(self._sso.fileno(), False, BACKLOG)  # type: ignore[call-arg]
        return super()._spawn_worker(idx, *args, **kwargs)

    def _drop_shared_socket(self) -> None:
        for listener in self.listeners:
            listener.close()

    def _respawn_workers(self, workers: list[int], *args: Any, **kwargs: Any) -> None:
        ended = [self.wrks[index] for index in workers if not self.wrks[index].is_alive()]
        for worker in ended:  # live workers are being replaced on purpose
            self.last_end = _end(worker)
            self.runtime.count_crash()
            logger.error("A worker ended unexpectedly, by %s; %d have so far.", self.last_end, self.runtime.crashes)
        now = time.monotonic()
        self._crashes = [moment for moment in self._crashes if now - moment < CRASHES_WITHIN_S] + [now] * len(ended)
        if len(self._crashes) > CRASHES_ALLOWED * self.workers:
            self.respawn_failed_workers = False
            self.interrupt_children.extend(workers)
            self.main_loop_interrupt.set()
            return
        super()._respawn_workers(workers, *args, **kwargs)
        # Granian would stop if one worker ends twice within seconds, even if the others work.
        self.respawned_wrks.clear()

    def signal_handler_interrupt(self, *args: Any, **kwargs: Any) -> None:
        if self.runtime.draining:  # the second signal: stop now
            self._stop()
            return
        self.runtime.drain()
        _later(self.drain_s, self._stop)

    def _stop(self) -> None:
        super().signal_handler_interrupt()
        # Granian's own kill timeout sometimes takes a worker that has just ended for one that does not end.
        _later(STOP_TIMEOUT_S, self._kill_workers)

    def _kill_workers(self) -> None:
        for worker in list(self.wrks):
            logger.warning("A worker did not stop within %d s and is killed.", STOP_TIMEOUT_S)
            worker.kill()


def _end(worker: Any) -> str:
    """The signal or exit code with which a worker's process ended, in words."""
    code = worker.inner.exitcode
    return signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"


def _later(seconds: float, action: Callable[[], None]) -> None:
    timer = threading.Timer(seconds, action)
    timer.daemon = True
    timer.start()


def serve(
    settings: Settings,
    *,
    host: str | None = None,
    port: int | None = None,
    workers: int | None = None,
    drain_s: float = DRAIN_S,
    on_start: Callable[[str], None] | None = None,
    extensions: Sequence[MakeExtension] = (),
) -> None:
    """Serve the store until SIGTERM or SIGINT; returns after a graceful stop.

    On the signal `/readyz` answers 503 at once, requests are still answered for `drain_s` seconds, then connections
    are finished and closed. A second signal ends the wait.

    Args:
        host, port, workers: Override the settings `reader_host`, `reader_port`, `reader_workers`.
        on_start: Called with the reader's URL before the workers start.
        extensions: Each makes an extension of every worker, in the worker's process.

    Raises:
        ConflictError: The port is taken.
        SettingsError: The address cannot be used or is open to others without tokens, or the token file cannot be read.
        UnavailableError: The workers ended unexpectedly again and again.
    """
    given = {"reader_host": host, "reader_port": port, "reader_workers": workers}
    settings = settings.model_copy(update={name: value for name, value in given.items() if value is not None})
    host, port = settings.reader_host, settings.reader_port
    if settings.reader_tokens is not None:
        Access(settings.reader_tokens)  # report a wrong file once, here, and not in every worker
    _raise_file_limit(settings.reader_max_connections)
    anonymous = settings.reader_tokens is not None or settings.reader_anonymous
    listeners = listen(host, port, anonymous=anonymous, count=settings.reader_workers)
    try:
        _serve(settings, listeners, drain_s=drain_s, on_start=on_start, extensions=extensions)
    finally:
        for listener in listeners:
            listener.close()


def _serve(
    settings: Settings,
    listeners: Sequence[socket.socket],
    *,
    drain_s: float,
    on_start: Callable[[str], None] | None,
    extensions: Sequence[MakeExtension],
) -> None:
    host, port = listeners[0].getsockname()[:2]
    # Two slots per worker: on SIGHUP the old worker keeps counting until the new one has started.
    slots = 2 * settings.reader_workers
    runtime = Runtime.create(num_slots=slots, slot_bytes=SLOT_BYTES, history_bytes=HISTORY_BYTES)
    timeout_ms = max(1, int(settings.reader_request_timeout_s * 1000))
    server = _Server(
        "forecache.reader.http.app",
        address=host,
        port=port,
        interface="rsgi",
        workers=settings.reader_workers,
        websockets=False,
        log_level=LogLevels.warning,
        respawn_failed_workers=True,
        respawn_interval=0.5,
        http1_settings=HTTP1Settings(header_read_timeout=timeout_ms, max_buffer_size=MAX_HEAD_BYTES),
        http2_settings=HTTP2Settings(
            max_headers_size=MAX_HEAD_BYTES,
            initial_connection_window_size=HTTP2_WINDOW_BYTES,
            initial_stream_window_size=HTTP2_WINDOW_BYTES,
            max_concurrent_streams=HTTP2_STREAMS,
            keep_alive_interval=max(1, timeout_ms // 2),
            keep_alive_timeout=max(1, timeout_ms // 1000),
        ),
        backlog=BACKLOG,
        backpressure=settings.reader_max_connections,
    )
    server.runtime, server.drain_s, server.listeners = runtime, drain_s, listeners
    if on_start is not None:
        url_host = f"[{host}]" if ":" in host else host
        server.on_startup(partial(on_start, f"http://{url_host}:{port}"))
    try:
        server.serve(target_loader=partial(load_worker, settings, runtime.path, tuple(extensions)), wrap_loader=False)
    except SystemExit:
        raise UnavailableError(
            f"The reader stops: its workers ended {runtime.crashes} times, the last by {server.last_end}.",
            remedy="See the log above for the cause; a supervisor may start the reader again.",
        ) from None
    finally:
        runtime.remove()


def load_worker(settings: Settings, shared: Path, extensions: Sequence[MakeExtension] = ()) -> ReaderApp:
    """Build a worker's application, in the worker's process."""
    # A separate process group, so that Ctrl-C in a terminal reaches only the main process, which drains first.
    os.setpgid(0, 0)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s[%(process)d]: %(message)s")
    return ReaderApp(settings, Runtime(shared, SLOT_BYTES), extensions)


def _raise_file_limit(max_connections: int) -> None:
    """Raise this process's limit of open files as far as the system allows: connections and segments need them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max_connections * 2 + 4096
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
