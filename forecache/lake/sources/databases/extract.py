"""Extraction: a database's rows of a day become the landing file of the day, once, whole or not at all."""

import shutil
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import xxhash

from forecache.errors import InputError
from forecache.folders import open_folder
from forecache.lake.ingest.ingested import ingested_files
from forecache.lake.ingest.landing import list_landing, source_uri
from forecache.lake.ledger import last_records
from forecache.lake.sources.databases.database import text_batches
from forecache.lake.stage import Done, Stage, span
from forecache.lake.turn import own_turn
from forecache.pipeline import Snapshot, Source, Static
from forecache.pipeline.sources.query import Query, file_name
from forecache.results import Progress, StageResult, no_progress
from forecache.settings import Settings
from forecache.steps import extract_step

STAGE = "extract"


def days_to_extract(
    settings: Settings, source: Source, *, first: date, last: date, now: datetime | None = None
) -> list[date]:
    """The days from `first` to `last` that the source's query is to be asked for, ascending; none without a query.

    These are the days without a landing file, and those for which rows may have come late.

    Args:
        now: With a time zone; default: the clock.
    """
    if source.extract is None:
        return []
    possible = _possible_days(source, first, last, now)
    if not possible:
        return []
    done = {file.day for file in list_landing(settings, source)}
    done |= {file.event_day for file in ingested_files(settings, source)}
    if isinstance(source.time, Static):
        return [] if done - {None} else possible
    late_days, today = source.extract.late_days, _today(now)
    asked = last_records(settings, STAGE, source.name) if late_days and done else {}

    def may_have_more(day: date) -> bool:
        over = day + timedelta(days=1)
        asked_on = date.fromisoformat(asked[day].details["asked_on"]) if day in asked else over
        return asked_on < min(today, over + timedelta(days=late_days))

    return [day for day in possible if day not in done or may_have_more(day)]


def extract(
    settings: Settings,
    source: Source,
    days: Collection[date],
    *,
    run_id: str = "",
    progress: Progress = no_progress,
    rebuild: bool = False,
    now: datetime | None = None,
) -> StageResult:
    """Write the landing files of the days that have none, and of those of which rows came late.

    Args:
        days: Those that are not over yet are left out, and those whose state the database no longer has.
        rebuild: Ask again for all of them; the files take the place of those that were there.

    Returns:
        `nights` are the days that were extracted, `rows` their rows.

    Raises:
        InputError: The database refuses the query, or it lacks a column; or `rebuild` is for a past state.
        UnavailableError: The database does not answer, or the object store. Files of days before are whole.
    """
    started = time.perf_counter()
    assert source.extract is not None
    first, last = min(days), max(days)
    rows: dict[date, int] = {}
    with own_turn(settings, f"landing_{source.name}", run_id, progress), _scratch(settings, source) as scratch:
        if rebuild:
            chosen = [day for day in _possible_days(source, first, last, now) if day in days]
            _require_state(source, days, chosen)
        else:
            chosen = [day for day in days_to_extract(settings, source, first=first, last=last, now=now) if day in days]
        stage = Stage(settings, STAGE, source.name, run_id)
        before = last_records(settings, STAGE, source.name) if source.extract.late_days and not rebuild else {}
        for number, day in enumerate(chosen):
            progress(f"extracting {source.name} of {day} from {source.extract.database}", number / len(chosen))
            begun = time.perf_counter()
            known = before[day].details["rows_digest"] if day in before else ""
            rows[day], details = _extract_day(settings, source, source.extract, day, scratch, known=known)
            done = Done(rows[day], {"file": file_name(day), **details, "asked_on": _today(now).isoformat()})
            stage.record({day: done}, {day: f"{source.extract.database} {file_name(day)}"}, time.perf_counter() - begun)
    return StageResult(
        stage=STAGE,
        subject=source.name,
        rows=sum(rows.values()),
        seconds=time.perf_counter() - started,
        nights=tuple(sorted(rows)),
        skipped=not rows,
        details={"days": span(sorted(rows)) if rows else "none", "database": source.extract.database},
    )


def _possible_days(source: Source, first: date, last: date, now: datetime | None) -> list[date]:
    """Days that are over, and of a state the one that has just ended."""
    newest = _today(now) - timedelta(days=1)
    newest = min(newest, source.end) if source.end and source.time is None else newest
    first, last = max(first, source.start), min(last, newest)
    if source.time is not None:
        is_there = last == newest and first <= last and (source.end is None or newest <= source.end)
        return [newest] if is_there else []
    return [first + timedelta(days=number) for number in range((last - first).days + 1)]


def _today(now: datetime | None) -> date:
    return (now or datetime.now(timezone.utc)).astimezone(timezone.utc).date()


def _require_state(source: Source, days: Collection[date], chosen: Collection[date]) -> None:
    if isinstance(source.time, Snapshot) and not chosen:
        raise InputError(
            f"Source {source.name!r} cannot be extracted again for {max(days)}: the database has no past states.",
            remedy="Give yesterday, the last day that is over.",
        )


def _extract_day(
    settings: Settings, source: Source, query: Query, day: date, scratch: Path, *, known: str
) -> tuple[int, dict[str, Any]]:
    """Rows of the day's file, and its details. It is written elsewhere and put into the landing zone in one step.

    Args:
        known: The digest of the rows that the landing zone got before: where it is the same, the file stays.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(column.name, pa.string()) for column in source.columns])
    written, num_rows, digest = scratch / file_name(day), 0, 0
    with pq.ParquetWriter(written, schema, compression="zstd") as writer:
        for batch in text_batches(settings, source, query, day):
            columns = [pa.array(values, pa.string()) for values in zip(*batch, strict=True)]
            writer.write_batch(pa.record_batch(columns, schema=schema))
            num_rows += len(batch)
            if query.late_days:
                # A sum: a database gives its rows in any order.
                digest = (digest + sum(int(xxhash.xxh3_128_intdigest(repr(row).encode())) for row in batch)) % (
                    1 << 128
                )
            extract_step("batch extracted")
    size_bytes, rows_digest = written.stat().st_size, f"{num_rows} {digest:032x}" if query.late_days else ""
    if not rows_digest or rows_digest != known:
        folder = open_folder(source_uri(settings, source), settings.storage_options, setting="FORECACHE_LANDING")
        folder.upload(written, file_name(day))
        extract_step("file landed")
    written.unlink()
    return num_rows, {"size_bytes": size_bytes, "rows_digest": rows_digest}


@contextmanager
def _scratch(settings: Settings, source: Source) -> Iterator[Path]:
    """A folder for unfinished files; what a killed extraction of the source left on this machine goes first."""
    folder = settings.home_path / "extract" / source.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
