"""The committer process: commit the spool repeatedly, with the maintenance of the tables in a thread beside it.

Files removed from a table stay in its folder for a day, as long as its Delta log goes back. Nothing refers to older
versions: trainings copy the rows that they read, and parity and rollouts read the newest version.
"""

import logging
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import date, datetime, timedelta, timezone
from itertools import count
from pathlib import Path
from threading import Event
from typing import Any

from forecache.base.errors import ForecacheError
from forecache.base.files import try_lock
from forecache.base.plugins import find_hooks, is_installed
from forecache.base.settings import Settings
from forecache.kit.delta.commit import Change, TableState, Target, commit
from forecache.kit.delta.files import DataFile
from forecache.kit.delta.log import open_if_exists
from forecache.kit.delta.merge_files import MergePolicy, MergeStopError, merge_small_files
from forecache.kit.delta.stream_tables import KEPT
from forecache.kit.process.periodic import Backoff, PeriodicThread, RetryPauses
from forecache.kit.process.wakes import LOG_LOCK, LOG_MAINTENANCE
from forecache.kit.versioned.pointer import read_pointer
from forecache.realtime.log.commit_segments import PARQUET, commit_ready
from forecache.realtime.log.record import DAY, table_of
from forecache.realtime.log.spool_files import read_state, ready_segments, spooled_models, streams_of, write_state
from forecache.realtime.release.folder import open_releases, read_release

DAY_POLICY = MergePolicy(least=48, growth=4, batch_rows=4096, parquet=PARQUET)
"""While a day goes on, at least so many of its files are merged, if together they are so many times as large as the
largest of them; others are left until the day is over."""
PAST_DAY_POLICY = replace(DAY_POLICY, least=2, growth=2)


def merge_small(settings: Settings, name: str, *, today: date, stop: Event | None = None) -> int:
    """Merge small files of each day in one commit; see `forecache.kit.delta.merge_files.merge_small_files`."""
    delta = open_if_exists(settings, table_of(name))
    if delta is None:
        return 0

    def policy_of(partition: Mapping[str, str | None]) -> MergePolicy:
        return PAST_DAY_POLICY if date.fromisoformat(str(partition[DAY])) < today else DAY_POLICY

    return merge_small_files(_target(settings, name, delta), policy_of, stop=stop)


def remove_merged(settings: Settings, name: str) -> int:
    """Delete files that left the table at least a day ago; return how many."""
    if open_if_exists(settings, table_of(name)) is None:
        return 0
    return sum(remove(settings, table_of(name), (), KEPT) for remove in find_hooks("remove_unused_files"))


def remove_old(settings: Settings, name: str, *, before: date) -> int:
    """Remove the days before a date from the table; return the number of rows removed."""
    delta = open_if_exists(settings, table_of(name))
    if delta is None:
        return 0
    gone: list[DataFile] = []

    def decide(state: TableState) -> Change:
        gone[:] = [file for file in state.files if date.fromisoformat(str(file.partition[DAY])) < before]
        return Change((), gone)

    commit(_target(settings, name, delta), decide)
    return sum(file.rows for file in gone)


def first_kept_day(today: date, keep_days: int) -> date:
    return today - timedelta(days=keep_days)


def _target(settings: Settings, name: str, delta: Any) -> Target:
    return Target(settings, table_of(name), delta.schema(), (DAY,), keep_log=False)


logger = logging.getLogger("forecache.request_log")
_LOCK = ".committer"
_BACKOFF = Backoff(1.0, 30.0)
_REMOVING_EACH = 60


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
                if stop.wait(LOG_LOCK.every_s):
                    return
        if not is_installed("maintenance"):
            logger.warning("Merged files of request logs are not removed: there is no plug-in `maintenance`.")
        committer = LogCommitter(settings, names)
        with _maintenance_thread(settings, committer.names):
            while not stop.is_set():
                stop.wait(0 if committer.commit_once() else settings.request_log_delay_s / 2)
            committer.commit_rest()
    finally:
        os.close(descriptor)


def _maintenance_thread(settings: Settings, names: Callable[[], Sequence[str]]) -> PeriodicThread:
    """A thread that merges small files and removes old days of each model's log, about once a minute.

    About once an hour it also removes files that left the table a day ago. Its end gives a running merge up: the table
    is unchanged.
    """
    number = count()

    def maintain() -> None:
        maintain_logs(settings, names(), stop=thread.stopping, is_removing=next(number) % _REMOVING_EACH == 0)

    # A random pause: committers of other replicas maintain the same tables, rarely at the same time.
    thread = PeriodicThread(
        LOG_MAINTENANCE, maintain, at_once=True, every_s=lambda: random.uniform(0.5, 1.5) * LOG_MAINTENANCE.every_s
    )
    return thread


def maintain_logs(settings: Settings, names: Sequence[str], *, stop: Event, is_removing: bool = True) -> None:
    """Maintain the logs of models once; failures are logged, and retried the next time.

    Args:
        is_removing: Also delete files that left the tables a day ago, which lists the folders of the tables.
    """
    today = datetime.now(timezone.utc).date()
    for name in names:
        if stop.is_set():
            return
        try:
            merge_small(settings, name, today=today, stop=stop)
            if (keep_days := _days_to_keep(settings, name)) is not None:
                remove_old(settings, name, before=first_kept_day(today, keep_days))
            if is_removing:
                remove_merged(settings, name)
        except MergeStopError:
            return
        except Exception as error:  # noqa: BLE001  # it is tried again
            logger.warning("The files of the request log of %s are merged at the next try: %s", name, error)


def _days_to_keep(settings: Settings, name: str) -> int | None:
    """Return the retention of the current release; None if there is no release here."""
    with suppress(ForecacheError, OSError):
        folder = open_releases(settings, name)
        current = read_pointer(folder).current
        log = None if current is None else read_release(folder, current).log
        return None if log is None else log.keep_days
    return None


class LogCommitter:
    """Commits the logs of models, with a growing pause for a log whose commits fail."""

    def __init__(self, settings: Settings, names: Sequence[str] = ()) -> None:
        self._settings, self._names = settings, names
        self._pauses = RetryPauses(_BACKOFF)

    def names(self) -> Sequence[str]:
        return self._names or spooled_models(self._settings.request_log_path)

    def commit_once(self) -> bool:
        """Commit once for each model; return True if more segments are ready."""
        more = False
        for name in self.names():
            if self._pauses.is_waiting(name):
                continue
            try:
                more |= commit_ready(self._settings, name).segments > 1 and self._has_ready_segments(name)
                self._pauses.note_success(name)
            except Exception as error:  # noqa: BLE001  # the lake may be away, or full; the rows stay in the spool
                self._pauses.note_failure(name)
                self._record_failure(name, error)
        return more

    def commit_rest(self) -> None:
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
