"""A thread that calls a function periodically."""

import logging
import threading
from collections.abc import Callable

logger = logging.getLogger("forecache.stream")


class Every:
    """Calls `work` every `seconds` until it is closed; exceptions are logged."""

    def __init__(self, seconds: float, work: Callable[[], None], *, name: str) -> None:
        self._seconds, self._work, self._name = seconds, work, name
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"forecache-stream-{name}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread after the current call, waiting for it up to 5 s."""
        self._stop.set()
        self._thread.join(5.0)

    def _run(self) -> None:
        while not self._stop.wait(self._seconds):
            try:
                self._work()
            except Exception:
                logger.exception("The thread %s of a stream failed, and goes on.", self._name)
