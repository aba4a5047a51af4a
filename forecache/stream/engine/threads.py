"""Background threads of an engine: periodic work, and the search for a newer release or champion."""

import logging
import threading
from collections.abc import Callable
from typing import Any

from forecache.stream.step.answerer import Answerer


class PeriodicThread:
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


logger = logging.getLogger("forecache.stream")


class ModelWatch:
    """A thread that looks for a newer release or champion every `look_every_s`; the loop switches between two batches.

    Attributes:
        failure: Why a newer one cannot be used; "" if nothing failed. The current one continues to answer.
    """

    def __init__(self, answerer: Answerer) -> None:
        self.failure = ""
        self._answerer = answerer
        self._found: Any = None
        self._every = PeriodicThread(answerer.look_every_s, self._look_for_newer, name="models")

    def switch_to_newer(self) -> bool:
        """Switch to the newer release or champion if one was found; called by the loop."""
        found = self._found
        if found is None:
            return False
        self._answerer.switch_to(found)
        self._found = None
        return True

    def close(self) -> None:
        self._every.close()

    def _look_for_newer(self) -> None:
        if self._found is not None:
            return
        try:
            self._found = self._answerer.find_newer()
            self.failure = ""
        except Exception as error:  # noqa: BLE001  # a registry that is away stops no stream
            if str(error) != self.failure:
                logger.warning("What answers was not looked up: %s", error)
            self.failure = str(error)
