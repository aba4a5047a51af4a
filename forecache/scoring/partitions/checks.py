"""Checks of a night's predictions before they become visible.

Keys are counted in memory that does not grow with them. Every key becomes a hash of 64 bits. The hashes are divided
into buckets, on disk if there are many, and each bucket is sorted, so that equal hashes are neighbours. If all hashes
differ, so do the keys. If two are equal, because of a duplicate key or, very rarely, by chance, DuckDB compares the
keys themselves within its own memory limit.
"""

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from forecache.base.errors import CheckError
from forecache.base.hashes import row_hashes
from forecache.base.settings import Settings
from forecache.declare import Pipeline
from forecache.kit.delta.comparison.hash_buckets import BUCKETS, HashBuckets
from forecache.kit.delta.errors import open_data_file
from forecache.kit.delta.files import DataFile, place_of
from forecache.scoring.night_inputs import ScoringNight
from forecache.scoring.run_context import ScoringWork, num_cores, scratch_database, scratch_folder
from forecache.scoring.tasks.parquet_files import explain_full_disk

_BATCH_ROWS = 65_536
# Hashes that are divided at a time.
_DIVIDED_ROWS = 250_000
# More hashes wait on disk.
_WAITING_BYTES = 128 << 20


def check_partition(
    work: ScoringWork, night: ScoringNight, files: Sequence[DataFile], *, carried: Sequence[DataFile] = ()
) -> dict[str, Any]:
    """Check a night's staged rows: one for each entity, no key twice, no null, every number finite and in its range.

    Rows, nulls and ranges come from the files' footers; only the keys are read. CheckError has the figures.

    Args:
        files: All of the night's files.
        carried: Those of them whose keys are known to differ from each other and from all others, as
            `forecache.scoring.incremental.score_changes` proves of predictions carried forward.

    Returns:
        rows, keys; minimum and maximum of the first output if it is a number or quantiles.
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
            remedy="Nothing was written; look at that night's features and at the model.",
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
    """Count the different keys of all staged files together.

    Takes at most about 200 MB up to half a billion rows, and above 16 million rows 8 bytes a row of disk below the
    home folder.
    """
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
