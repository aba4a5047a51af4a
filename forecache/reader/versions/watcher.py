"""A thread that polls the store and runs the resulting changes on the event loop."""

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Callable

logger = logging.getLogger("forecache.reader")
POLL_S = 0.25
RunOnLoop = Callable[[Callable[[], None]], None]
"""Runs an action on the event loop's thread and waits until it is done."""
Follow = Callable[[RunOnLoop], None]
"""Looks for changes in the watching thread."""


class Watcher:
    """Calls `turn` a few times a second until it is closed; if the reader's main process is gone, the worker stops.

    Args:
        turn: Polls the store; its errors are logged.
        beat: Records that this worker is alive.
    """

    def __init__(self, turn: Callable[[], None], beat: Callable[[], None]) -> None:
        self._turn, self._beat = turn, beat
        self._parent = os.getppid()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="forecache-swap", daemon=True)

    def start(self) -> None:
        self._beat()
        self._thread.start()

    def run_on(self, loop: asyncio.AbstractEventLoop, action: Callable[[], None]) -> None:
        """Run an action on the loop's thread and wait until it is done."""
        done = threading.Event()

        def run() -> None:
            action()
            done.set()

        loop.call_soon_threadsafe(run)
        while not done.wait(0.5) and not self._stop.is_set():
            pass

    def close(self) -> None:
        self._stop.set()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        while True:
            try:
                self._turn()
            except Exception:
                logger.exception("Polling the store failed; the served versions stay.")
            if self._stop.wait(POLL_S):
                return
            self._beat()
            if os.getppid() != self._parent:
                logger.error("The reader's main process is gone; this worker stops.")
                os.kill(os.getpid(), signal.SIGTERM)
                return
