"""Counts the different keys in staged files, in memory that does not grow with them.

Every key becomes a hash of 64 bits. The hashes are divided into buckets, on disk if there are many, and each bucket is
sorted, so that equal hashes are neighbours. If all hashes differ, so do the keys. If two are equal, because of a
duplicate key or, very rarely, by chance, DuckDB compares the keys themselves within its own memory limit.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from forecache.base.hashes import row_hashes
from forecache.base.settings import Settings
from forecache.declare import Pipeline
from forecache.kit.delta.comparison.hash_buckets import BUCKETS, HashBuckets
from forecache.kit.delta.files import place_of
from forecache.kit.delta.read_errors import open_data_file
from forecache.scoring.partitions.staged_files import StagedFile
from forecache.scoring.run_context import num_cores, scratch_database, scratch_folder
from forecache.scoring.tasks.parquet_files import explain_full_disk

_BATCH_ROWS = 65_536
# Hashes that are divided at a time.
_DIVIDED_ROWS = 250_000
# More hashes wait on disk.
_WAITING_BYTES = 128 << 20


def count_keys(settings: Settings, pipeline: Pipeline, table: str, files: Sequence[StagedFile]) -> int:
    """Count the different keys of all staged files together.

    Takes at most about 200 MB up to half a billion rows, and above 16 million rows 8 bytes a row of disk below the
    home folder.

    Raises:
        UnavailableError: No space is left on the device.
    """
    rows = sum(file.rows for file in files)
    filesystem = place_of(settings, table).open()
    threads = ThreadPoolExecutor(num_cores(), thread_name_prefix="forecache-keys")
    buckets = HashBuckets(scratch_folder(settings), numbers=1, waiting_bytes=_WAITING_BYTES)

    def read(file: StagedFile) -> None:
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
