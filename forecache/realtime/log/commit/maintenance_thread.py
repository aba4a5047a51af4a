"""Maintain the tables of request logs in a thread beside the committer, which does not wait for it."""

import logging
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from itertools import count
from threading import Event, Thread

from forecache.base.errors import ForecacheError
from forecache.base.settings import Settings
from forecache.kit.delta.merge_files import MergeStopError
from forecache.realtime.log.commit.log_retention import first_kept_day, merge_small, remove_merged, remove_old
from forecache.realtime.release.folder import open_releases, read_current, read_release

logger = logging.getLogger("forecache.request_log")
_EVERY_S, _REMOVING_EACH = 60.0, 60


class MaintenanceThread:
    """Merges small files and removes old days of each model's log, about once a minute, in a thread of its own.

    About once an hour it also removes files that left the table a day ago.

    Args:
        names: Returns the models; called each time.
    """

    def __init__(self, settings: Settings, names: Callable[[], Sequence[str]]) -> None:
        self._settings, self._names = settings, names
        self._stop = Event()
        self._thread = Thread(target=self._run, name="request-log-tender", daemon=True)

    def __enter__(self) -> "MaintenanceThread":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End the thread; a running merge is given up, and the table is unchanged."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        for number in count():
            if self._stop.is_set():
                return
            try:
                maintain_logs(self._settings, self._names(), stop=self._stop, is_removing=number % _REMOVING_EACH == 0)
            except OSError as error:  # the spool cannot be listed now
                logger.warning("The files of the request logs are merged at the next try: %s", error)
            # A random pause: committers of other replicas maintain the same tables, rarely at the same time.
            self._stop.wait(random.uniform(0.5, 1.5) * _EVERY_S)


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
        current = read_current(folder).current
        log = None if current is None else read_release(folder, current).log
        return None if log is None else log.keep_days
    return None
