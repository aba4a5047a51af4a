"""Ingestion: every landing row ends in exactly one of the raw or the quarantine table, once.

The file is the unit: the rows of the files are replaced in both tables by file name, and only then are the files
recorded in `ingested_files`. If a run is killed in between, the next one replaces them again, so no row is doubled.

Two ingestions of one source may run at once. The commit to the raw table decides between them: it succeeds only if the
table still has the files that the rows were judged against; otherwise the ingestion starts over. Before each of the two
other commits it is checked that this commit is still the raw table's newest, so that the last one to commit there
determines all three tables.
"""

import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from datetime import date, datetime, timezone

from forecache.base.code_version import code_version
from forecache.base.errors import ConflictError, InputError
from forecache.base.files import process_folder
from forecache.base.results import Progress, StageResult, no_progress
from forecache.base.settings import Settings
from forecache.base.steps import begin_work
from forecache.declare import Source
from forecache.kit.delta.commit import TableState
from forecache.kit.delta.partitions import TableSnapshot, take_snapshot
from forecache.kit.delta.tables import replace_rows, table_exists, table_version
from forecache.kit.process.periodic import Backoff
from forecache.lake.ingest.ingested_files import (
    IngestedFile,
    files_to_ingest,
    find_copies,
    has_changed,
    ingested_files,
    record_files,
)
from forecache.lake.ingest.landed_rows import LandedRows, Written
from forecache.lake.ingest.landing import LandingFile, list_landing
from forecache.lake.stage_runner import Stage, StageOutcome, hold_table_lock

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
    good: Written,
    files: Sequence[LandingFile],
    *,
    seen: TableSnapshot,
    run_id: str,
) -> int:
    """Replace the rows of files in the raw table by the good rows, if it is as these were judged against."""
    judged_against = {path for paths in seen.files.values() for path in paths}

    def require_seen(state: TableState) -> None:
        if {file.path for file in state.files} != judged_against:
            raise OvertakenError(source)

    return replace_rows(
        good,
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
    bad: Written | None,
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


STAGE = "ingest"
_TRIES = 6


def ingest(
    settings: Settings,
    source: Source,
    *,
    days: Collection[date] | None = None,
    correctable: Collection[date] = (),
    run_id: str = "",
    progress: Progress = no_progress,
) -> StageResult:
    """Ingest the landing files, of the given days or all, that have not been ingested.

    If another process ingests the same source, this one waits for it, or starts over after it.

    Args:
        correctable: Days from which nothing is built yet, such as those that failed a check: files of these that were
            landed again are read again, and their rows replaced.

    Returns:
        A result with the landing rows of this call, or of all ingested files if there was nothing to do.
        `details` has `late_days`: days older than one ingested before, which make later nights stale.

    Raises:
        InputError: The content of an ingested file has changed. New files are still ingested.
        ConflictError: Another process ingested the same source at the same time, repeatedly.
    """
    stage = Stage(settings, STAGE, source.name, run_id)
    with hold_table_lock(settings, source.raw_table, run_id, progress):
        # Listed under the lock: while this run waited, another one may have landed a day again and ingested it.
        found = list_landing(settings, source)
        landed = [file for file in found if days is None or file.day is None or file.day in days]
        known = {file.file: file for file in ingested_files(settings, source)}
        pending = files_to_ingest(settings, source, landed, known.values(), correctable=correctable)
        done: dict[str, IngestedFile] = {}
        if pending:
            begin_work(f"ingesting {source.name}")
            progress(f"reading {len(pending)} landing files of {source.name}", None)
            # A retry has the same files: another run's record may be about rows that this one has replaced since.
            began = time.perf_counter()
            retry_if_overtaken(
                lambda: done.update(_ingest_files(settings, source, pending, run_id=run_id)), tries=_TRIES
            )
            # The files themselves are in `ingested_files`.
            outcome = StageOutcome(sum(file.landing_rows for file in done.values()), {"files": len(done)})
            stage.record({None: outcome}, {None: ""}, time.perf_counter() - began)
    as_before = [file for file in landed if file.name in known and file.name not in done]
    changed = [file for file in as_before if has_changed(settings, source, file, known[file.name])]
    if changed:
        stem, _, format_name = changed[0].name.rpartition(".")
        raise InputError(
            f"The landing file {changed[0].name!r} of source {source.name!r} has changed since it was ingested.",
            remedy=f"Land corrections under a new name (such as {stem}.2.{format_name}) and restore the file.",
        )
    already = [known[file.name] for file in landed if file.name in known]
    return _result(stage, source, list(done.values()), known=list(known.values()), already=already)


def _ingest_files(
    settings: Settings, source: Source, files: Sequence[LandingFile], *, run_id: str
) -> dict[str, IngestedFile]:
    now = datetime.now(timezone.utc)
    seen = take_snapshot(settings, source.raw_table, "event_day")
    names = [file.name for file in files]
    others = [file for file in ingested_files(settings, source) if file.file not in names]
    of_days = Counter(day for day in [*(f.day for f in files), *(f.event_day for f in others if f.raw_rows)] if day)
    scratch = settings.home_path / "ingest"
    scratch.mkdir(parents=True, exist_ok=True)
    with process_folder(scratch, f"{source.name}-") as folder:
        rows = LandedRows(
            settings,
            source,
            files,
            find_copies(settings, source, files, others),
            several=[day for day, number in of_days.items() if number > 1],
            raw_version=seen.version,
            now=now,
            folder=folder,
        )
        good = rows.write_good()
        bad = rows.write_bad()
    raw_version = commit_raw(settings, source, good, files, seen=seen, run_id=run_id)
    commit_quarantine(settings, source, bad, files, raw_version=raw_version, run_id=run_id)
    version = code_version(settings)
    done = [
        IngestedFile(
            source=source.name,
            file=file.name,
            event_day=file.day,
            size_bytes=file.size_bytes,
            modified_at=file.modified_at,
            sha256=rows.results[file.name].sha256,
            landing_rows=rows.results[file.name].counted_rows,
            raw_rows=rows.results[file.name].good,
            quarantined_rows=rows.results[file.name].bad,
            error=rows.results[file.name].error,
            raw_version=raw_version,
            ingested_at=now,
            run_id=run_id,
            code_version=version,
        )
        for file in files
    ]
    record_files(settings, done, require=lambda: require_newest(settings, source, raw_version))
    return {file.file: file for file in done}


def _result(
    stage: Stage, source: Source, done: list[IngestedFile], *, known: list[IngestedFile], already: list[IngestedFile]
) -> StageResult:
    days = sorted({file.event_day for file in done if file.event_day})
    newest_before = max((file.event_day for file in known if file.event_day), default=None)
    late = [day for day in days if newest_before and day <= newest_before]
    exists = table_exists(stage.settings, source.raw_table)
    return stage.result(
        sum(file.landing_rows for file in done or already),
        nights=days,
        table=source.raw_table,
        version=table_version(stage.settings, source.raw_table) if exists else None,
        skipped=not done,
        details={
            "files": len(done),
            "raw_rows": sum(file.raw_rows for file in done),
            "quarantined_rows": sum(file.quarantined_rows for file in done),
            "quarantined_files": {file.file: file.error for file in done if file.error},
            "late_days": [day.isoformat() for day in late],
        },
    )
