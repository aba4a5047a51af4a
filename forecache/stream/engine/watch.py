"""Background threads of an engine: periodic work, and the search for a newer release or champion."""

import logging
from typing import Any

from forecache.stream.engine.every import Every
from forecache.stream.step.answers import Answerer

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
        self._every = Every(answerer.look_every_s, self._look, name="models")

    def take_up(self) -> bool:
        """Switch to the newer release or champion if one was found; called by the loop."""
        found = self._found
        if found is None:
            return False
        self._answerer.take_up(found)
        self._found = None
        return True

    def close(self) -> None:
        self._every.close()

    def _look(self) -> None:
        if self._found is not None:
            return
        try:
            self._found = self._answerer.look()
            self.failure = ""
        except Exception as error:  # noqa: BLE001  # a registry that is away stops no stream
            if str(error) != self.failure:
                logger.warning("What answers was not looked up: %s", error)
            self.failure = str(error)
