"""The commits of an ingestion: good rows, then bad rows, then the entries of the files.

Two ingestions of one source may run at once. The commit to the raw table decides between them: it succeeds only if the
table still has the files that the rows were judged against; otherwise the ingestion starts over. Before each of the two
other commits it is checked that this commit is still the raw table's newest, so that the last one to commit there
determines all three tables.
"""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from forecache.base.errors import ConflictError
from forecache.base.settings import Settings
from forecache.declare import Source
from forecache.kit.delta.commit import TableState
from forecache.kit.delta.partitions import TableSnapshot
from forecache.kit.delta.tables import replace_rows, table_exists, table_version
from forecache.kit.process.periodic import Backoff
from forecache.lake.ingest.landing import LandingFile

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_BACKOFF = Backoff(0.5)


class OvertakenError(ConflictError):
    """Another ingestion of the source committed after this one had read the table."""

    def __init__(self, source: Source) -> None:
        super().__init__(
            f"Another process is ingesting source {source.name!r} at the same time.",
            remedy="Run again when it has ended.",
        )


def commit_raw(
    settings: Settings,
    source: Source,
    good: "DataFrame",
    files: Sequence[LandingFile],
    *,
    seen: TableSnapshot,
    run_id: str,
) -> int:
    """Replace all rows of the files in the raw table by the good rows; returns the Delta version.

    OvertakenError if the table has other files than those that the rows were judged against.
    """
    judged_against = {path for paths in seen.files.values() for path in paths}

    def require_seen(state: TableState) -> None:
        if {file.path for file in state.files} != judged_against:
            raise OvertakenError(source)

    return replace_rows(
        good.repartition("event_day"),
        settings,
        source.raw_table,
        column="source_file",
        values=[file.name for file in files],
        partition_by="event_day",
        within={file.day for file in files if file.day is not None},
        require=require_seen,
        run_id=run_id,
    )


def commit_quarantine(
    settings: Settings,
    source: Source,
    bad: "DataFrame | None",
    files: Sequence[LandingFile],
    *,
    raw_version: int,
    run_id: str,
) -> None:
    """Replace all rows of the files in quarantine by the bad rows, or none; raises OvertakenError as `commit_raw`."""
    if bad is None and not table_exists(settings, source.quarantine_table):
        return
    replace_rows(
        bad,
        settings,
        source.quarantine_table,
        column="source_file",
        values=[file.name for file in files],
        require=lambda _: require_newest(settings, source, raw_version),
        run_id=run_id,
    )


def require_newest(settings: Settings, source: Source, raw_version: int) -> None:
    """Raise OvertakenError if the raw table has a newer version."""
    if table_version(settings, source.raw_table) != raw_version:
        raise OvertakenError(source)


def retry_if_overtaken(attempt: Callable[[], None], *, tries: int) -> None:
    """Call `attempt`, and again after OvertakenError, with growing pauses; the last try raises it."""
    for number in range(tries):
        try:
            attempt()
            return
        except OvertakenError:
            if number == tries - 1:
                raise
        time.sleep(_BACKOFF.pause_s(number + 1))
