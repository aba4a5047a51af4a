"""Base class of the engines: holds the stream's lock, writes its live layers, and its figures until the end."""

import threading
import time
from abc import ABC, abstractmethod
from contextlib import ExitStack
from typing import ClassVar

from forecache.base.settings import Settings
from forecache.declare import Stream
from forecache.stream.engine.figures import StreamFigures
from forecache.stream.engine.lineage import report_run
from forecache.stream.live_layers import write_layers
from forecache.stream.lock import lock_stream


class StreamEngine(ABC):
    """Runs one stream, once.

    Attributes:
        figures: Its figures, written to a file once a second.

    Args:
        until_caught_up: End when the messages that the topic had at the start are committed.
        skip_lost: Continue with the messages that the topic still has, if others were lost.
        stop: Set to end it; answered events are committed first.
    """

    name: ClassVar[str]

    def __init__(
        self,
        settings: Settings,
        stream: Stream,
        *,
        until_caught_up: bool = False,
        skip_lost: bool = False,
        stop: threading.Event | None = None,
    ) -> None:
        self._settings, self._stream = settings, stream
        self._until_caught_up, self._skip_lost = until_caught_up, skip_lost
        self._stop = stop or threading.Event()
        self.figures = StreamFigures(settings.home_path, stream.name, engine=self.name, freshness=stream.freshness)

    def run(self) -> None:
        """Run until it is stopped, or has caught up.

        Raises:
            ConflictError: Another process runs the stream, or commits to it.
            NotFoundError: There is no such topic, or no release or model version that could answer.
            DamagedError: Messages that were not read yet are lost.
            UnavailableError: No broker answers at the start, Spark does not start, or a lake or store cannot be read.
        """
        # The end of the run is reported last, after the stream's lock was released.
        with ExitStack() as telling, ExitStack() as held:
            held.enter_context(lock_stream(self._settings, self._stream.name))
            telling.enter_context(report_run(self._settings, self._stream, self.figures.state))
            try:
                write_layers(self._settings, self._stream)
                self._run(held)
            except BaseException as error:
                self.figures.state.last_error = str(error)
                self.figures.write(now=True)
                raise
            self.figures.state.stopped_at = time.time()
            self._write_last_figures()

    @abstractmethod
    def _run(self, held: ExitStack) -> None:
        """Run the stream; the resources in `held` are closed afterwards."""

    @abstractmethod
    def _write_last_figures(self) -> None:
        """Write the last figures."""
