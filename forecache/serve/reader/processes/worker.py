"""A worker of the reader: one process, one event loop, its own listening socket."""

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Sequence
from pathlib import Path

import uvloop

from forecache.base.settings import Settings
from forecache.kit.http.connections.connections import Connections
from forecache.serve.reader.http.app import ReaderApp
from forecache.serve.reader.http.extension import MakeExtension
from forecache.serve.reader.processes.shared_memory import ReaderSharedMemory
from forecache.serve.reader.processes.worker_metrics import SLOT_BYTES


def run_worker(
    settings: Settings, shared: Path, listener: socket.socket, extensions: Sequence[MakeExtension] = ()
) -> None:
    """Answer requests on a listening socket until SIGTERM; requests in progress are finished first."""
    # A separate process group, so that Ctrl-C in a terminal reaches only the main process, which drains first.
    os.setpgid(0, 0)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s[%(process)d]: %(message)s")
    app = ReaderApp(settings, ReaderSharedMemory(shared, SLOT_BYTES), extensions)
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        loop.run_until_complete(_answer_until_stopped(settings, app, listener))
    finally:
        loop.close()


async def _answer_until_stopped(settings: Settings, app: ReaderApp, listener: socket.socket) -> None:
    loop, told = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, told.set)
    app.connections = connections = Connections(
        loop, listener, app.handle,
        most=settings.reader_max_connections, timeout_s=settings.reader_request_timeout_s,
    )  # fmt: skip
    app.open(loop)
    connections.start()
    await told.wait()
    await connections.drain()
    app.close()
