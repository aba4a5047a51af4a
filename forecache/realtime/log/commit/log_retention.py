"""Merge small files of a request log, and remove days past their retention.

Files removed from the table stay in its folder for a day, as long as its Delta log goes back. Nothing refers to older
versions: trainings copy the rows that they read, and parity and rollouts read the newest version.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import date, timedelta
from threading import Event
from typing import Any

from forecache.base.plugins import find_hooks
from forecache.base.settings import Settings
from forecache.kit.delta.commit import Change, TableState, Target, commit
from forecache.kit.delta.files import DataFile
from forecache.kit.delta.log import open_if_exists
from forecache.kit.delta.merge_files import MergePolicy, merge_small_files
from forecache.kit.delta.stream_tables import KEPT
from forecache.realtime.log.commit.log_rows import PARQUET
from forecache.realtime.log.record import DAY, table_of

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
    """Return the first day whose rows are kept."""
    return today - timedelta(days=keep_days)


def _target(settings: Settings, name: str, delta: Any) -> Target:
    return Target(settings, table_of(name), delta.schema(), (DAY,), keep_log=False)
