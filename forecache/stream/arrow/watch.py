"""Looks for a newer release or champion beside the loop, which takes it up between two batches."""

import logging
import threading
from typing import Any

from forecache.stream.step.answers import Answerer

logger = logging.getLogger("forecache.stream")
_EVERY_S = 1.0


class ModelWatch:
    """A thread that looks once a second.

    Attributes:
        failure: Why what is newer cannot be used; "" where nothing failed. What answered goes on answering.
    """

    def __init__(self, answerer: Answerer, *, every_s: float = _EVERY_S) -> None:
        self.failure = ""
        self._answerer, self._every_s = answerer, every_s
        self._found: Any = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="forecache-stream-models", daemon=True)
        self._thread.start()

    def take_up(self) -> bool:
        """Answer with what was found, if anything was; called by the loop."""
        found = self._found
        if found is None:
            return False
        self._answerer.take_up(found)
        self._found = None
        return True

    def close(self) -> None:
        self._stop.set()
        self._thread.join(5.0)

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            if self._found is not None:
                continue
            try:
                self._found = self._answerer.look()
                self.failure = ""
            except Exception as error:  # noqa: BLE001  # a registry that is away stops no stream
                if str(error) != self.failure:
                    logger.warning("What answers was not looked up: %s", error)
                self.failure = str(error)
