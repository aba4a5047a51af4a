"""The commits of an ingestion: good rows, then bad rows, then the entries of the files.

Two ingestions of one source may run at once. The commit to the raw table decides between them: it is made only where
the table still has the files that the rows were judged against, and whoever comes second judges anew. What follows is
made only while that commit is the raw table's newest, so the last to commit there has the last word on all three.
"""

import fcntl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from forecache.errors import ConflictError
from forecache.lake.commit import Change, State, Target, active_files, commit
from forecache.lake.landing import LandingFile
from forecache.lake.tables import open_table, table_exists, table_version
from forecache.lake.writers import Remainder, write_frame
from forecache.pipeline import Source
from forecache.results import Progress
from forecache.settings import Settings

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_POLL_S = 0.2


class OvertakenError(ConflictError):
    """Another ingestion of the source committed since this one looked."""

    def __init__(self, source: Source) -> None:
        super().__init__(
            f"Another process is ingesting source {source.name!r} at the same time.",
            remedy="Run again when it has ended.",
        )


@dataclass(frozen=True)
class RawState:
    """The raw table as rows are judged against it; version -1 where there is none."""

    version: int
    paths: frozenset[str]


@contextmanager
def only_ingestion(settings: Settings, source: Source, progress: Progress) -> Iterator[None]:
    """One ingestion of a source at a time on this machine; a second one waits and then finds less to do, or nothing."""
    folder = settings.home_path / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"ingest-{source.name}.lock").open("w") as lock:
        told = False
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not told:
                    progress(f"waiting for another ingestion of {source.name} to end", None)
                told = True
                time.sleep(_POLL_S)
        yield


def raw_state(settings: Settings, source: Source) -> RawState:
    """The raw table at its newest version."""
    if not table_exists(settings, source.raw_table):
        return RawState(-1, frozenset())
    delta = open_table(settings, source.raw_table)
    return RawState(delta.version(), frozenset(file.path for file in active_files(delta)))


def commit_raw(
    settings: Settings, source: Source, good: "DataFrame", files: Sequence[LandingFile], *, seen: RawState, run_id: str
) -> int:
    """Put the good rows in the place of all rows of their files; returns the Delta version.

    Raises:
        OvertakenError: The table has other files than those that the rows were judged against.
    """
    name = source.raw_table
    schema, written = write_frame(good.repartition("event_day"), settings, name, partition_by="event_day")
    rest = Remainder(settings, name, "source_file", frozenset(file.name for file in files))
    days = {file.day.isoformat() for file in files if file.day is not None}

    def decide(state: State) -> Change:
        if {file.path for file in state.files} != seen.paths:
            raise OvertakenError(source)
        replaced, kept = rest.of(state, [file for file in state.files if file.partition["event_day"] in days])
        return Change([*written, *kept], replaced)

    return commit(Target(settings, name, schema, ("event_day",)), decide, note={"run_id": run_id})


def commit_quarantine(
    settings: Settings,
    source: Source,
    bad: "DataFrame | None",
    files: Sequence[LandingFile],
    *,
    raw_version: int,
    run_id: str,
) -> None:
    """Put the bad rows, or none, in the place of all rows of their files; raises OvertakenError as `commit_raw`."""
    name = source.quarantine_table
    if bad is not None:
        schema, written = write_frame(bad, settings, name)
    elif table_exists(settings, name):
        schema, written = open_table(settings, name).schema(), []
    else:
        return
    rest = Remainder(settings, name, "source_file", frozenset(file.name for file in files))

    def decide(state: State) -> Change:
        require_newest(settings, source, raw_version)
        replaced, kept = rest.of(state, state.files)
        return Change([*written, *kept], replaced)

    commit(Target(settings, name, schema), decide, note={"run_id": run_id})


def require_newest(settings: Settings, source: Source, raw_version: int) -> None:
    """Refuse to go on where the raw table has a newer version."""
    if table_version(settings, source.raw_table) != raw_version:
        raise OvertakenError(source)


def patiently(attempt: Callable[[], None], *, tries: int) -> None:
    """Call again where another ingestion came first, each time after a longer pause; the last time it raises."""
    for number in range(tries):
        try:
            attempt()
            return
        except OvertakenError:
            if number == tries - 1:
                raise
        time.sleep(0.5 * 2**number)
