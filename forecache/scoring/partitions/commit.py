"""From staged shards to a visible partition and a row of the ledger: checked, committed to the Delta log, recorded.

Keys are counted in memory that does not grow with them. Every key becomes a hash of 64 bits. The hashes are divided
into buckets, on disk if there are many, and each bucket is sorted, so that equal hashes are neighbours. If all hashes
differ, so do the keys. If two are equal, because of a duplicate key or, very rarely, by chance, DuckDB compares the
keys themselves within its own memory limit.
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from forecache.base.errors import CheckError
from forecache.base.hashes import row_hashes
from forecache.base.settings import Settings
from forecache.base.steps import lake_step
from forecache.declare import AS_OF, Pipeline
from forecache.kit.delta.commit import Target
from forecache.kit.delta.comparison.hash_buckets import BUCKETS, HashBuckets
from forecache.kit.delta.errors import open_data_file
from forecache.kit.delta.files import DataFile, place_of
from forecache.kit.delta.partitions import PartitionCommit, ReplaceResult, TableSnapshot, replace_partitions
from forecache.kit.delta.tables import open_table
from forecache.lake.engine import num_cores
from forecache.lake.ledger import last_records
from forecache.lake.query import scratch_database, scratch_folder
from forecache.lake.stage_runner import StageOutcome, format_nights
from forecache.scoring.night_inputs import (
    ScoringNight,
    ScoringWork,
    partition_files,
)
from forecache.scoring.partitions.shards import StagedNights, describe_committed
from forecache.scoring.tasks.prediction_file import explain_full_disk
from forecache.scoring.tasks.prediction_rows import layout_of, prediction_fields

_BATCH_ROWS = 65_536
# Hashes that are divided at a time.
_DIVIDED_ROWS = 250_000
# More hashes wait on disk.
_WAITING_BYTES = 128 << 20


def check_partition(
    work: ScoringWork, night: ScoringNight, files: Sequence[DataFile], *, carried: Sequence[DataFile] = ()
) -> dict[str, Any]:
    """Check a night's staged rows: one for each entity, no key twice, no null, every number finite and in its range.

    Rows, nulls and ranges come from the files' footers; only the keys are read, except of files that were carried,
    whose keys are known to differ from each other and from all others. CheckError has the figures.

    Returns rows, keys, and minimum and maximum of the first output if it is a number or quantiles.
    """
    pipeline = work.pipeline
    rows = sum(file.rows for file in files)
    nulls = {
        name: sum(file.statistics["nullCount"][name] for file in files)
        for name in (*pipeline.key, *pipeline.output_columns)
        if name not in _columns_of_lists(pipeline)
    }
    known = {file.path for file in carried}
    keys = sum(file.rows for file in carried)
    keys += count_keys(work.settings, pipeline, work.table, [file for file in files if file.path not in known])
    failed = []
    if rows != night.rows:
        failed.append(f"{rows} rows for {night.rows} entities")
    if keys != rows:
        failed.append(f"{rows} rows with {keys} different keys")
    failed += [f"{count} rows without a {name}" for name, count in nulls.items() if count]
    ranges = {name: _range(files, name) for output in pipeline.output_specs for name in output.numbers}
    for output in pipeline.output_specs:
        for name in output.numbers:
            low, high = ranges[name]
            if low == -math.inf or high == math.inf:  # JSON has no such number
                failed.append(f"{name} {'down' if low == -math.inf else 'up'} to infinity")
            if output.minimum is not None and low is not None and low < output.minimum:
                failed.append(f"{name} down to {low:g}, below its minimum {output.minimum:g}")
            if output.maximum is not None and high is not None and high > output.maximum:
                failed.append(f"{name} up to {high:g}, above its maximum {output.maximum:g}")
    if failed:
        raise CheckError(
            f"The predictions of pipeline {pipeline.name!r} for {night.night} are wrong: {'; '.join(failed)}.",
            remedy="Nothing was written; look at that date's features and at the model.",
        )
    low, high = ranges.get(pipeline.output_specs[0].judged_column, (None, None))
    return {"rows": rows, "keys": keys, "minimum": low, "maximum": high}


def _columns_of_lists(pipeline: Pipeline) -> set[str]:
    """Columns of lists: a footer counts nulls of their items only, so their rows are checked when they are made."""
    fields = [field for output in pipeline.output_specs for field in output.arrow_fields]
    return {field.name for field in fields if pa.types.is_list(field.type)}


def _range(files: Sequence[DataFile], name: str) -> tuple[float | None, float | None]:
    """Smallest and largest value of a column; None if all are null."""
    lows = [file.statistics["minValues"].get(name) for file in files if file.rows]
    highs = [file.statistics["maxValues"].get(name) for file in files if file.rows]
    low = min((value for value in lows if value is not None), default=None)
    return low, max((value for value in highs if value is not None), default=None)


def count_keys(settings: Settings, pipeline: Pipeline, table: str, files: Sequence[DataFile]) -> int:
    """Count the different keys of all staged files together, in at most about 200 MB up to half a billion rows, and
    above 16 million rows in 8 bytes a row of disk below the home folder."""
    rows = sum(file.rows for file in files)
    filesystem = place_of(settings, table).open()
    threads = ThreadPoolExecutor(num_cores(), thread_name_prefix="forecache-keys")
    buckets = HashBuckets(scratch_folder(settings), numbers=1, waiting_bytes=_WAITING_BYTES)

    def read(file: DataFile) -> None:
        some: list[np.ndarray] = []
        for hashes in _hashes(filesystem, pipeline.key, file.path, table):
            some.append(hashes)
            if sum(map(len, some)) >= _DIVIDED_ROWS:
                buckets.add(np.concatenate(some).reshape(-1, 1))
                some = []
        if some:
            buckets.add(np.concatenate(some).reshape(-1, 1))

    with explain_full_disk(), buckets, threads:
        list(threads.map(read, sorted(files, key=lambda file: -file.rows)))
        different = all(threads.map(lambda bucket: _all_differ(buckets.bucket(bucket)), range(BUCKETS)))
    return rows if different else _count_exactly(settings, pipeline, filesystem, [file.path for file in files])


def _all_differ(hashes: np.ndarray) -> bool:
    hashes = np.sort(hashes[:, 0])
    return not (hashes[1:] == hashes[:-1]).any()


def _hashes(filesystem: Any, key: Sequence[str], path: str, table: str) -> Iterator[np.ndarray]:
    with open_data_file(filesystem, path, table) as opened:
        for batch in pq.ParquetFile(opened).iter_batches(_BATCH_ROWS, columns=list(key), use_threads=False):
            yield row_hashes([batch.column(name) for name in key])


def _count_exactly(settings: Settings, pipeline: Pipeline, filesystem: Any, paths: Sequence[str]) -> int:
    import pyarrow.dataset as ds

    columns = ", ".join(f'"{name}"' for name in pipeline.key)
    with scratch_database(settings) as connection:
        connection.register("keys", ds.dataset(list(paths), format="parquet", filesystem=filesystem))
        row = connection.execute(f"SELECT count(*) FROM (SELECT DISTINCT {columns} FROM keys)").fetchone()
    assert row is not None
    return int(row[0])


@dataclass(frozen=True)
class CommitResult:
    """Result of a commit: the figures of the checks by night, and by night the run whose rows were taken over."""

    checks: Mapping[str, Any]
    taken_over: Mapping[str, str]


def commit(work: ScoringWork, chunk: Sequence[ScoringNight], staged: StagedNights) -> CommitResult:
    """Check, commit and record, in this order: the next run only records nights that were committed and not recorded.

    CheckError if predictions are wrong, ConflictError if another run changed a night from other inputs.
    """
    lake_step("staged")
    started = time.perf_counter()
    checks = _check(work, chunk, staged)
    lake_step("checked")
    inputs = {night.night: night.inputs for night in chunk}
    done = commit_nights(work, staged.files, seen=_snapshot_for_commit(work.seen, staged), inputs=inputs)
    for night, run_id in done.taken_over.items():
        work.progress(f"run {run_id} was faster with {night}: its predictions are taken over", None)
    _record(work, chunk, staged, done, checks, seconds=staged.seconds + time.perf_counter() - started)
    lake_step("recorded")
    return CommitResult(
        {night.isoformat(): figures for night, figures in checks.items()},
        {night.isoformat(): run_id for night, run_id in done.taken_over.items()},
    )


def record_committed(
    work: ScoringWork, nights: Sequence[ScoringNight], writers: Mapping[date, PartitionCommit]
) -> dict[str, Any]:
    """Check nights that a run committed and was killed before it could record them, and record them.

    Returns the figures of the checks by night (ISO).
    """
    files = partition_files(work.settings, work.table, None, [night.night for night in nights])
    described = {night: describe_committed(work.settings, work.table, some, night) for night, some in files.items()}
    by = {night.isoformat(): writer.run_id for night, writer in writers.items()}
    staged = StagedNights(described, 0, 0.0, details={"committed_by": by})
    checks = _check(work, nights, staged)
    done = ReplaceResult({night: writer.version for night, writer in writers.items()}, {})
    _record(work, nights, staged, done, checks, seconds=0.0)
    return {night.isoformat(): figures for night, figures in checks.items()}


def _check(work: ScoringWork, nights: Sequence[ScoringNight], staged: StagedNights) -> dict[date, dict[str, Any]]:
    return {n.night: check_partition(work, n, staged.files[n.night], carried=staged.carried) for n in nights}


def _snapshot_for_commit(seen: TableSnapshot, staged: StagedNights) -> TableSnapshot:
    """The table as the run saw it; if predictions were carried forward within a night, with that night's files then."""
    if staged.before is None:
        return seen
    (night,) = staged.files
    return replace(seen, files={**seen.files, night.isoformat(): frozenset(file.path for file in staged.before)})


def _record(
    work: ScoringWork,
    chunk: Sequence[ScoringNight],
    staged: StagedNights,
    done: ReplaceResult,
    checks: Mapping[date, Mapping[str, Any]],
    *,
    seconds: float,
) -> None:
    """Record nights in the ledger, except those taken over from a run that has recorded them itself."""
    known = last_records(work.settings, work.stage, work.pipeline.name) if done.taken_over else {}
    nights = [
        night
        for night in chunk
        if not (night.night in done.taken_over and night.night in known and known[night.night].inputs == night.inputs)
    ]
    of_a_row = seconds / sum(night.rows for night in chunk)
    work.ledger.record(
        {
            night.night: StageOutcome(
                rows=night.rows,
                details={
                    "model_version": work.stamp.model_version,
                    "feature_table": work.pipeline.feature_table,
                    "feature_version": night.feature_version,
                    **work.engine.describe(),
                    "runtime": work.plan.spec.runtime,
                    "checks": checks[night.night],
                    **({"run": staged.figures.metadata(work.settings)} if staged.figures else {}),
                    **staged.details,
                    **work.details(night.night),
                },
                table=work.table,
                delta_version=done.versions[night.night],
                seconds=of_a_row * night.rows,
            )
            for night in nights
        },
        {night.night: night.inputs for night in nights},
        seconds,
    )


def commit_nights(
    work: ScoringWork, files: Mapping[date, Sequence[DataFile]], *, seen: TableSnapshot, inputs: Mapping[date, str]
) -> ReplaceResult:
    """Replace the nights' partitions by the staged files, some of which may be in them already, in one commit.

    The change data feed has the rows of added files as inserted and those of removed files as deleted. `seen` is the
    table as the run saw it before it scored or carried; a night that another run committed from the same inputs is
    taken over.
    """
    from deltalake import Schema

    nights = sorted(files)
    return replace_partitions(
        Target(work.settings, work.table, Schema.from_arrow(table_schema(work)), (AS_OF,), change_feed=True),
        [file for some in files.values() for file in some],
        column=AS_OF,
        values=nights,
        seen=seen,
        inputs=inputs,
        note={"forecache": f"score {work.pipeline.name} {format_nights(nights)}", "run_id": work.run_id},
    )


def table_schema(work: ScoringWork) -> "pa.Schema":
    """Columns of the prediction table, in order; key columns have the types of the feature table."""
    import pyarrow as pa

    features = pa.schema(open_table(work.settings, work.pipeline.feature_table).schema())
    keys = [pa.field(name, features.field(name).type) for name in work.pipeline.key]
    return pa.schema([*keys, (AS_OF, pa.date32()), *prediction_fields(layout_of(work.pipeline))])
