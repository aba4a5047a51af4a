"""Extraction: the rows of a day in a database or a stream become the landing file of the day, atomically and once."""

import shutil
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import date, datetime
from pathlib import Path
from typing import Any

import xxhash

from forecache.base.errors import InputError
from forecache.base.folders import open_folder
from forecache.base.results import Progress, StageResult, no_progress
from forecache.base.settings import Settings
from forecache.base.steps import begin_work, extract_step
from forecache.base.table_names import STREAM
from forecache.declare import Snapshot, Source
from forecache.declare.sources.extract import Query, StreamDay, extract_file_name
from forecache.kit.delta.dataset import open_dataset
from forecache.kit.delta.files import fit_columns
from forecache.kit.delta.tables import open_table
from forecache.kit.lease import Lease
from forecache.lake.ingest.landing import source_uri
from forecache.lake.ledger import last_records
from forecache.lake.stage_runner import Stage, StageOutcome, format_nights, hold_table_lock
from forecache.plugins.table_sources.database import text_batches
from forecache.plugins.table_sources.days_to_extract import (
    STAGE,
    days_to_extract,
    extractable_days,
    select_complete_days,
    utc_today,
)

_BATCH_ROWS = 1 << 16
_POSITION, _DAY = "position", "event_day"


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
    """Write the landing files of the days that have none, and of those with late rows; with `rebuild` of all again.

    Days that are not over yet, whose state the database no longer has, or that the stream has not read completely are
    left out. Of the result, `nights` are the days that were extracted.

    Raises:
        ConflictError: This process stood still beyond the term of its lease; another one may be extracting.
        InputError: The database refuses the query, a column is missing, or `rebuild` is for a past state.
        UnavailableError: The database or the object store does not answer. Files of earlier days are complete.
    """
    settings.refuse_in_trial(f"extract {source.name} into the landing zone")
    stage = Stage(settings, STAGE, source.name, run_id)
    assert source.extract is not None
    first, last = min(days), max(days)
    rows: dict[date, int] = {}
    with (
        hold_table_lock(settings, f"landing_{source.name}", run_id, progress) as lease,
        _scratch_folder(settings, source) as scratch,
    ):
        if rebuild:
            chosen = [day for day in extractable_days(source, first, last, now) if day in days]
            if isinstance(source.time, Snapshot) and not chosen:
                raise InputError(
                    f"Source {source.name!r} cannot be extracted again for {max(days)}: "
                    "the database has no past states.",
                    remedy="Give yesterday, the last day that is over.",
                )
            if isinstance(source.extract, StreamDay):
                chosen = select_complete_days(settings, source.extract, chosen)
        else:
            chosen = [day for day in days_to_extract(settings, source, first=first, last=last, now=now) if day in days]
        if chosen:
            begin_work(f"extracting {source.name}")
        # A stream may get more rows of a day at any time.
        looks_again = source.extract.late_days or isinstance(source.extract, StreamDay)
        before = last_records(settings, STAGE, source.name) if looks_again and not rebuild else {}
        for number, day in enumerate(chosen):
            progress(f"extracting {source.name} of {day} from {_origin(source.extract)}", number / len(chosen))
            begun = time.perf_counter()
            known = before[day].details["rows_digest"] if day in before else ""
            rows[day], details = _extract_day(settings, source, source.extract, day, scratch, lease, known=known)
            done = StageOutcome(
                rows[day], {"file": extract_file_name(day), **details, "asked_on": utc_today(now).isoformat()}
            )
            stage.record(
                {day: done},
                {day: f"{_describe_inputs(source.extract, details)} {extract_file_name(day)}"},
                time.perf_counter() - begun,
            )
    return stage.result(
        sum(rows.values()),
        nights=sorted(rows),
        skipped=not rows,
        details={"days": format_nights(sorted(rows)) if rows else "none", "from": _origin(source.extract)},
    )


def _describe_inputs(extract: Query | StreamDay, details: Mapping[str, Any]) -> str:
    """Inputs for the ledger: the database, or the stream's table at the position of the day's last row."""
    return f"{STREAM}{extract.stream}@{details['position']}" if isinstance(extract, StreamDay) else extract.database


def _origin(extract: Query | StreamDay) -> str:
    return f"the stream {extract.stream}" if isinstance(extract, StreamDay) else extract.database


def _extract_day(
    settings: Settings,
    source: Source,
    origin: Query | StreamDay,
    day: date,
    scratch: Path,
    lease: Lease,
    *,
    known: str,
) -> tuple[int, dict[str, Any]]:
    """Write the day's file, then move it to the landing zone, unless the digest of its rows is `known`.

    Returns its rows and details.
    """
    written = scratch / extract_file_name(day)
    more: dict[str, Any] = {}
    if isinstance(origin, StreamDay):
        num_rows, position = write_day_file(settings, source, origin, day, written)
        rows_digest, more = f"{num_rows} rows up to position {position}", {"position": position}
    else:
        num_rows, rows_digest = _write_query_day(settings, source, origin, day, written)
    size_bytes = written.stat().st_size
    if not rows_digest or rows_digest != known:
        folder = open_folder(source_uri(settings, source), settings.storage_options, setting="FORECACHE_LANDING")
        lease.confirm()  # an older state of the day must not replace that of a process that went on meanwhile
        folder.upload(written, extract_file_name(day))
        extract_step("file landed")
    written.unlink()
    return num_rows, {"size_bytes": size_bytes, "rows_digest": rows_digest, **more}


def _write_query_day(settings: Settings, source: Source, query: Query, day: date, path: Path) -> tuple[int, str]:
    """Write the result of the query; returns the number of rows and their digest, "" if the day is extracted once."""
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
                # A sum, as a database returns rows in any order.
                digest = (digest + sum(int(xxhash.xxh3_128_intdigest(repr(row).encode())) for row in batch)) % (
                    1 << 128
                )
            extract_step("batch extracted")
    return num_rows, f"{num_rows} {digest:032x}" if query.late_days else ""


@contextmanager
def _scratch_folder(settings: Settings, source: Source) -> Iterator[Path]:
    """Create a folder for unfinished files; remains of a killed extraction of the source are removed first."""
    folder = settings.home_path / "extract" / source.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_day_file(settings: Settings, source: Source, extract: StreamDay, day: date, path: Path) -> tuple[int, int]:
    """Write the events of a day; returns their number and the highest position among them (-1: none).

    Rows of a stream are never changed or removed, so equal numbers mean equal rows. A column that the topic does not
    have, such as a label that comes later, is null; InputError if it is a required one of the source.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.dataset as ds
    import pyarrow.parquet as pq

    dataset = open_dataset(open_table(settings, STREAM + extract.stream))
    there = set(dataset.schema.names)
    for column in source.columns:
        if column.required and column.name not in there:
            raise InputError(
                f"The stream {extract.stream!r} has no column {column.name!r}, which source {source.name!r} requires.",
                remedy="Declare it with required=False, or in a source of its own where it comes later.",
            )
    names = [column.name for column in source.columns if column.name in there]
    schema = pa.schema(
        [
            dataset.schema.field(each.name) if each.name in there else pa.field(each.name, pa.string())
            for each in source.columns
        ]
    )
    num_rows, newest = 0, -1
    wanted = ds.field(_DAY) == pa.scalar(day, pa.date32())
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in dataset.to_batches(columns=[*names, _POSITION], filter=wanted, batch_size=_BATCH_ROWS):
            if not batch.num_rows:
                continue
            writer.write_batch(fit_columns(batch, schema))
            num_rows += batch.num_rows
            newest = max(newest, pc.max(batch.column(_POSITION)).as_py())
            extract_step("batch extracted")
    return num_rows, newest
