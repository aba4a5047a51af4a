"""Runs a stream: its lock, the choice and the base class of the engines, and the look for a newer model."""

import logging
import os
import threading
import time
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, ExitStack
from typing import Any, ClassVar

from forecache.base.errors import ConflictError
from forecache.base.files import lock
from forecache.base.plugins import find_hooks, load_hook
from forecache.base.settings import Settings
from forecache.base.stream_state import LOCK, stream_folder
from forecache.declare import Stream
from forecache.kit.process.periodic import PeriodicThread
from forecache.kit.process.wakes import STREAM_MODELS
from forecache.stream.engine.figures import StreamFigures
from forecache.stream.kafka.client import client_options
from forecache.stream.live_layers import write_layers
from forecache.stream.step import Answerer

logger = logging.getLogger("forecache.stream")


def lock_stream(settings: Settings, name: str) -> AbstractContextManager[object]:
    """Hold the lock of a stream; ConflictError if another process holds it."""

    def conflict_error(holder: str) -> ConflictError:
        return ConflictError(
            f"The stream {name!r} is run by {holder} on this machine.",
            remedy="One process runs a stream: stop the other one first.",
        )

    path = stream_folder(settings.home_path, name) / LOCK
    return lock(path, holder=f"process {os.getpid()}", refused=conflict_error, wait_s=1.0)


class StreamEngine(ABC):
    """Runs one stream, once; its figures are written to a file once a second.

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
            for report_run in find_hooks("report_stream_run"):
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

    def _send_answers(self, held: ExitStack) -> None:
        """Send the answers to the declared topic, if there is one, until `held` is closed."""
        if self._stream.to_topic is not None:
            send_answers = load_hook("stream_answers", "send_answers")
            options = client_options(self._settings)
            held.enter_context(send_answers(self._settings, self._stream, options, self._note_failure))

    @abstractmethod
    def _run(self, held: ExitStack) -> None:
        """Run the stream; the resources in `held` are closed afterwards."""

    @abstractmethod
    def _note_failure(self, sentence: str) -> None:
        """Note what has failed, until the next commit."""

    @abstractmethod
    def _write_last_figures(self) -> None: ...


class ModelWatch:
    """A thread that looks for a newer release or champion; the loop switches to it between two batches."""

    def __init__(self, answerer: Answerer) -> None:
        self._answerer = answerer
        self._found: Any = None
        self._thread = PeriodicThread(
            STREAM_MODELS,
            self._look_for_newer,
            every_s=lambda: answerer.look_every_s,
            report=_log_failed_look,
            close_s=5.0,
        ).start()

    @property
    def failure(self) -> str:
        """The reason why a newer one cannot be used; "" if nothing failed. The current one continues to answer."""
        return self._thread.failure

    def switch_to_newer(self) -> bool:
        """Switch to the newer release or champion if one was found; called by the loop."""
        found = self._found
        if found is None:
            return False
        self._answerer.switch_to(found)
        self._found = None
        return True

    def close(self) -> None:
        self._thread.close()

    def _look_for_newer(self) -> None:
        if self._found is None:
            self._found = self._answerer.find_newer()


def _log_failed_look(error: Exception) -> None:
    logger.warning("What answers was not looked up: %s", error)  # a registry that is away stops no stream


def engine_of(stream: Stream) -> type[StreamEngine]:
    """Return the engine that a stream declares."""
    if stream.engine == "spark":
        spark_engine: type[StreamEngine] = load_hook("spark_stream", "engine")
        return spark_engine
    from forecache.stream.engine.arrow_engine import ArrowEngine

    return ArrowEngine
