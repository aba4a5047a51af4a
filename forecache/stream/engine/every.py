"""Work that is done again and again in a thread of its own, beside the loop that answers."""

import logging
import threading
from collections.abc import Callable

logger = logging.getLogger("forecache.stream")


class Every:
    """Calls `work` every `seconds` until it is closed; what it raises is logged."""

    def __init__(self, seconds: float, work: Callable[[], None], *, name: str) -> None:
        self._seconds, self._work, self._name = seconds, work, name
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"forecache-stream-{name}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Return when no call is under way."""
        self._stop.set()
        self._thread.join(5.0)

    def _run(self) -> None:
        while not self._stop.wait(self._seconds):
            try:
                self._work()
            except Exception:
                logger.exception("The thread %s of a stream failed, and goes on.", self._name)
