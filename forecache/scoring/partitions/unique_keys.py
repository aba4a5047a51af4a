"""How many different keys staged files hold, in memory that does not grow with them.

Every key becomes a hash of 64 bits. The hashes are divided by their first bits into parts that are sorted one after the
other, two equal ones lying side by side; where there are many, the parts wait on disk. Hashes that all differ prove
that the keys do. Where two are equal, by a key that is there twice or once in a great while by chance, DuckDB compares
the keys themselves within its own limit.
"""

import tempfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from forecache.hashes import row_hashes
from forecache.pipeline import Pipeline
from forecache.scoring.partitions.staged_files import StagedFile, lake_filesystem
from forecache.scoring.scratch import scratch_database, scratch_folder
from forecache.scoring.tasks.parquet_files import disk_full_named
from forecache.scoring.work import num_cores
from forecache.settings import Settings

_BATCH_ROWS = 65_536
# Hashes that are divided at a time.
_DIVIDED_ROWS = 250_000
# So many that a part fits a core's cache while it is sorted, and not too many open files.
_PARTS = 256
# Above this many hashes (128 MB) the parts are files.
_MEMORY_ROWS = 16_000_000


def count_keys(settings: Settings, pipeline: Pipeline, table: str, files: Sequence[StagedFile]) -> int:
    """Different keys in staged files, together.

    Takes at most about 200 MB up to half a billion rows, and above 16 million rows 8 bytes a row of disk below the
    home folder.

    Raises:
        UnavailableError: No space is left on the device.
    """
    rows = sum(file.rows for file in files)
    filesystem = lake_filesystem(settings, table)
    threads = ThreadPoolExecutor(num_cores(), thread_name_prefix="forecache-keys")
    with disk_full_named(), ExitStack() as stack, threads:
        on_disk = str(scratch_folder(settings)) if rows > _MEMORY_ROWS else None
        parts = _Parts(on_disk, stack)

        def read(file: StagedFile) -> None:
            some: list[np.ndarray] = []
            for hashes in _hashes(filesystem, pipeline.key, file.path):
                some.append(hashes)
                if sum(map(len, some)) >= _DIVIDED_ROWS:
                    parts.add(np.concatenate(some))
                    some = []
            if some:
                parts.add(np.concatenate(some))

        list(threads.map(read, sorted(files, key=lambda file: -file.rows)))
        different = all(threads.map(parts.all_differ, range(_PARTS)))
    return rows if different else _count_exactly(settings, pipeline, filesystem, [file.path for file in files])


def _hashes(filesystem: Any, key: Sequence[str], path: str) -> Iterator[np.ndarray]:
    with filesystem.open_input_file(path) as opened:
        for batch in pq.ParquetFile(opened).iter_batches(_BATCH_ROWS, columns=list(key), use_threads=False):
            yield row_hashes([batch.column(name) for name in key])


class _Parts:
    """Hashes by their first bits, in memory or each part in a file; threads may share it."""

    def __init__(self, folder: str | None, stack: ExitStack) -> None:
        self._lock = threading.Lock()
        self._kept: list[list[np.ndarray]] = [[] for _ in range(_PARTS)]
        self._files: list[Any] = []
        for _ in range(_PARTS if folder else 0):
            self._files.append(stack.enter_context(tempfile.TemporaryFile(dir=folder)))  # noqa: SIM115  # stack closes

    def add(self, hashes: np.ndarray) -> None:
        part = (hashes >> np.uint64(56)).astype(np.uint8)
        ordered = hashes[np.argsort(part, kind="stable")]
        ends = np.cumsum(np.bincount(part, minlength=_PARTS)).tolist()
        with self._lock:
            for i, (first, last) in enumerate(zip([0, *ends], ends, strict=False)):
                if self._files:
                    self._files[i].write(ordered[first:last].data)
                else:
                    self._kept[i].append(ordered[first:last])

    def all_differ(self, part: int) -> bool:
        """Whether no hash of a part is there twice; the part is given up."""
        if self._files:
            self._files[part].seek(0)
            together = np.frombuffer(bytearray(self._files[part].read()), np.uint64)
        else:
            together = np.concatenate([np.empty(0, np.uint64), *self._kept[part]])
            self._kept[part] = []
        together.sort()
        return not (together[1:] == together[:-1]).any()


def _count_exactly(settings: Settings, pipeline: Pipeline, filesystem: Any, paths: Sequence[str]) -> int:
    import pyarrow.dataset as ds

    columns = ", ".join(f'"{name}"' for name in pipeline.key)
    with scratch_database(settings) as connection:
        connection.register("keys", ds.dataset(list(paths), format="parquet", filesystem=filesystem))
        row = connection.execute(f"SELECT count(*) FROM (SELECT DISTINCT {columns} FROM keys)").fetchone()
    assert row is not None
    return int(row[0])
