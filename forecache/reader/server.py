"""Starting and stopping the reader: Granian's RSGI server, one process per worker."""

import errno
import logging
import os
import resource
import signal
import socket
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from granian import Granian
from granian.http import HTTP1Settings, HTTP2Settings
from granian.log import LogLevels

from forecache.errors import ConflictError, SettingsError
from forecache.reader.access import Access
from forecache.reader.app import ReaderApp
from forecache.reader.limits import MAX_HEAD_BYTES
from forecache.reader.runtime import Runtime
from forecache.settings import Settings

logger = logging.getLogger("forecache.reader")
DRAIN_S = 2.0
MAX_CONNECTIONS = 4096
"""Most connections of a worker at once; further ones wait in the kernel."""
STOP_TIMEOUT_S = 10
"""Seconds that requests under way have once the reader has stopped accepting."""


class _Server(Granian):  # type: ignore[valid-type,misc]
    """Granian with a pause between the signal to stop and the end of accepting: load balancers look at readiness."""

    runtime: Runtime
    drain_s: float

    def signal_handler_interrupt(self, *args: Any, **kwargs: Any) -> None:
        if self.runtime.draining:  # told twice: now
            self._stop()
            return
        self.runtime.drain()
        _later(self.drain_s, self._stop)

    def _stop(self) -> None:
        super().signal_handler_interrupt()
        # Granian's own kill timeout takes a worker that has just ended for one that refuses to, now and then.
        _later(STOP_TIMEOUT_S, self._kill_workers)

    def _kill_workers(self) -> None:
        for worker in list(self.wrks):
            logger.warning("A worker did not stop within %d s and is killed.", STOP_TIMEOUT_S)
            worker.kill()


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
) -> None:
    """Serve the store until SIGTERM or SIGINT; returns after a graceful stop.

    On the signal `/readyz` answers 503 at once, requests are still answered for `drain_s` seconds, then connections
    are finished and closed. A second signal ends the wait.

    Args:
        host, port, workers: Override the settings `reader_host`, `reader_port`, `reader_workers`.
        on_start: Called with the reader's URL before the workers start.

    Raises:
        ConflictError: The port is taken.
        SettingsError: The address cannot be used, or the token file cannot be read.
    """
    given = {"reader_host": host, "reader_port": port, "reader_workers": workers}
    settings = settings.model_copy(update={name: value for name, value in given.items() if value is not None})
    host, port = check_port(settings.reader_host, settings.reader_port), settings.reader_port
    _raise_file_limit()
    if settings.reader_tokens is not None:
        Access(settings.reader_tokens)  # a wrong file is found here, in words, rather than in every worker
    runtime = Runtime.create()
    timeout_ms = max(1, int(settings.reader_request_timeout_s * 1000))
    server = _Server(
        "forecache.reader.app",
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
            keep_alive_interval=max(1, timeout_ms // 2),
            keep_alive_timeout=max(1, timeout_ms // 1000),
        ),
        backlog=MAX_CONNECTIONS,
        backpressure=MAX_CONNECTIONS,
    )
    server.runtime, server.drain_s = runtime, drain_s
    if on_start is not None:
        url_host = f"[{host}]" if ":" in host else host
        server.on_startup(partial(on_start, f"http://{url_host}:{port}"))
    try:
        server.serve(target_loader=partial(load_worker, settings, runtime.folder), wrap_loader=False)
    finally:
        runtime.remove()


def load_worker(settings: Settings, folder: Path) -> ReaderApp:
    """Build a worker's application, in the worker's process."""
    # A process group of its own: Ctrl-C in a terminal reaches the main process alone, which drains first.
    os.setpgid(0, 0)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s[%(process)d]: %(message)s")
    return ReaderApp(settings, Runtime(folder))


def check_port(host: str, port: int) -> str:
    """The numeric address of a host name, after making sure that the port on it is free.

    The workers share the port by SO_REUSEPORT, with which a second reader would start without a word and take half
    of the connections.

    Raises:
        ConflictError: Something listens there.
        SettingsError: The address is not this machine's, or the port is reserved.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConflictError(
                f"Port {port} on {host} is in use.",
                remedy="Stop what listens there, or choose another with --port or FORECACHE_READER_PORT.",
            ) from None
        raise SettingsError(
            f"The reader cannot listen on {host} port {port}: {error.strerror}.",
            remedy="Set FORECACHE_READER_HOST to an address of this machine and the port to one above 1023.",
        ) from None
    return str(address[0])


def _raise_file_limit() -> None:
    """Allow as many open files as the system lets this process have: connections and segments are files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_CONNECTIONS * 2 + 4096
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
