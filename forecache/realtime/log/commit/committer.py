"""The committer process: commit the spool repeatedly, with the maintenance of the tables in a thread beside it."""

import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event

from forecache.base.errors import ForecacheError
from forecache.base.files import try_lock
from forecache.base.settings import Settings
from forecache.realtime.log.commit.commit_ready import commit_ready
from forecache.realtime.log.commit.committer_state import read_state, write_state
from forecache.realtime.log.commit.maintenance_thread import MaintenanceThread
from forecache.realtime.log.spool.spool_files import ready_segments, spooled_models, streams_of

logger = logging.getLogger("forecache.request_log")
_LOCK = ".committer"
_WAIT_S = 1.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0


def run_committer(
    settings: Settings, names: Sequence[str] = (), *, stop: Event, waiting: Callable[[], None] = lambda: None
) -> None:
    """Commit the request logs of models until `stop` is set, then commit the rest.

    One committer works on a spool at a time; a second one waits until the first has ended.

    Args:
        names: Models; empty: all that have a folder in the spool.
        waiting: Called once if another committer is running.
    """
    spool = settings.request_log_path
    spool.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(spool / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    try:
        if not try_lock(descriptor):
            waiting()
            while not try_lock(descriptor):
                if stop.wait(_WAIT_S):
                    return
        committer = LogCommitter(settings, names)
        with MaintenanceThread(settings, committer.names):
            while not stop.is_set():
                stop.wait(0 if committer.commit_once() else settings.request_log_delay_s / 2)
            committer.commit_rest()
    finally:
        os.close(descriptor)


class LogCommitter:
    """Commits the logs of models, with a growing pause for a log whose commits fail."""

    def __init__(self, settings: Settings, names: Sequence[str] = ()) -> None:
        self._settings, self._names = settings, names
        self._pauses: dict[str, tuple[float, float]] = {}

    def names(self) -> Sequence[str]:
        """Return the models whose logs are committed."""
        return self._names or spooled_models(self._settings.request_log_path)

    def commit_once(self) -> bool:
        """Commit once for each model; return True if more segments are ready."""
        more = False
        for name in self.names():
            pause_s, until = self._pauses.get(name, (0.0, 0.0))
            if time.monotonic() < until:
                continue
            try:
                more |= commit_ready(self._settings, name).segments > 1 and bool(self._has_ready_segments(name))
                self._pauses.pop(name, None)
            except Exception as error:  # noqa: BLE001  # the lake may be away, or full; the rows stay in the spool
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S) or _FIRST_PAUSE_S
                self._pauses[name] = pause_s, time.monotonic() + pause_s
                self._record_failure(name, error)
        return more

    def commit_rest(self) -> None:
        """Commit all ready segments, until a commit fails."""
        for name in self.names():
            try:
                while commit_ready(self._settings, name).segments:
                    pass
            except Exception as error:  # noqa: BLE001  # it stays in the spool
                self._record_failure(name, error)

    def _has_ready_segments(self, name: str) -> bool:
        return any(ready_segments(stream)[0] for stream in streams_of(self._settings.request_log_path / name))

    def _record_failure(self, name: str, error: Exception) -> None:
        folder: Path = self._settings.request_log_path / name
        state = read_state(folder)
        if not state.failing_since:
            state.failing_since = time.time()
        if state.failure != str(error):
            trace = None if isinstance(error, ForecacheError) else error
            logger.error("The request log of %s was not committed: %s", name, error, exc_info=trace)
        state.failure = str(error)
        write_state(folder, state)
