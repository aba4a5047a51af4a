"""Extraction: a day's rows of a database or a stream become the landing file of the day, once, whole or not at all."""

import shutil
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import date, datetime
from pathlib import Path
from typing import Any

import xxhash

from forecache.errors import InputError
from forecache.folders import open_folder
from forecache.lake.ingest.landing import source_uri
from forecache.lake.ledger import last_records
from forecache.lake.sources.databases.database import text_batches
from forecache.lake.sources.days_to_extract import STAGE, days_to_extract, possible_days, read_to_their_end, today_of
from forecache.lake.sources.streams.day_file import write_day
from forecache.lake.stage import Done, Stage, span
from forecache.lake.turn import own_turn
from forecache.pipeline import Snapshot, Source
from forecache.pipeline.names import STREAM
from forecache.pipeline.sources.query import Query, file_name
from forecache.pipeline.sources.stream_day import StreamDay
from forecache.results import Progress, StageResult, no_progress
from forecache.settings import Settings
from forecache.steps import extract_step


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
    """Write the landing files of the days that have none, and of those of which rows have come late.

    Args:
        days: Those that are not over yet are left out, those whose state the database no longer has, and those that the
            stream has not read to their end.
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
            chosen = [day for day in possible_days(source, first, last, now) if day in days]
            _require_state(source, days, chosen)
            if isinstance(source.extract, StreamDay):
                chosen = read_to_their_end(settings, source.extract, chosen)
        else:
            chosen = [day for day in days_to_extract(settings, source, first=first, last=last, now=now) if day in days]
        stage = Stage(settings, STAGE, source.name, run_id)
        # What a stream has of a day may be more at any time.
        looks_again = source.extract.late_days or isinstance(source.extract, StreamDay)
        before = last_records(settings, STAGE, source.name) if looks_again and not rebuild else {}
        for number, day in enumerate(chosen):
            progress(f"extracting {source.name} of {day} from {_origin(source.extract)}", number / len(chosen))
            begun = time.perf_counter()
            known = before[day].details["rows_digest"] if day in before else ""
            rows[day], details = _extract_day(settings, source, source.extract, day, scratch, known=known)
            done = Done(rows[day], {"file": file_name(day), **details, "asked_on": today_of(now).isoformat()})
            stage.record(
                {day: done}, {day: f"{_read(source.extract, details)} {file_name(day)}"}, time.perf_counter() - begun
            )
    return StageResult(
        stage=STAGE,
        subject=source.name,
        rows=sum(rows.values()),
        seconds=time.perf_counter() - started,
        nights=tuple(sorted(rows)),
        skipped=not rows,
        details={"days": span(sorted(rows)) if rows else "none", "from": _origin(source.extract)},
    )


def _read(extract: Query | StreamDay, details: Mapping[str, Any]) -> str:
    """What was read, as the ledger has it: of a stream its table at the version of the day's last row."""
    return f"{STREAM}{extract.stream}@{details['position']}" if isinstance(extract, StreamDay) else extract.database


def _origin(extract: Query | StreamDay) -> str:
    return f"the stream {extract.stream}" if isinstance(extract, StreamDay) else extract.database


def _require_state(source: Source, days: Collection[date], chosen: Collection[date]) -> None:
    if isinstance(source.time, Snapshot) and not chosen:
        raise InputError(
            f"Source {source.name!r} cannot be extracted again for {max(days)}: the database has no past states.",
            remedy="Give yesterday, the last day that is over.",
        )


def _extract_day(
    settings: Settings, source: Source, origin: Query | StreamDay, day: date, scratch: Path, *, known: str
) -> tuple[int, dict[str, Any]]:
    """Rows of the day's file, and its details. It is written elsewhere and put into the landing zone in one step.

    Args:
        known: The digest of the rows that the landing zone got before: where it is the same, the file stays.
    """
    written = scratch / file_name(day)
    more: dict[str, Any] = {}
    if isinstance(origin, StreamDay):
        num_rows, position = write_day(settings, source, origin, day, written)
        rows_digest, more = f"{num_rows} rows up to position {position}", {"position": position}
    else:
        num_rows, rows_digest = _query_day(settings, source, origin, day, written)
    size_bytes = written.stat().st_size
    if not rows_digest or rows_digest != known:
        folder = open_folder(source_uri(settings, source), settings.storage_options, setting="FORECACHE_LANDING")
        folder.upload(written, file_name(day))
        extract_step("file landed")
    written.unlink()
    return num_rows, {"size_bytes": size_bytes, "rows_digest": rows_digest, **more}


def _query_day(settings: Settings, source: Source, query: Query, day: date, path: Path) -> tuple[int, str]:
    """Write what a database answers; how many rows, and a digest of them, "" where they are asked for once."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(column.name, pa.string()) for column in source.columns])
    num_rows, digest = 0, 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
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
    return num_rows, f"{num_rows} {digest:032x}" if query.late_days else ""


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
