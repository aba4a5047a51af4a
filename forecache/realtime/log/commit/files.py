"""Write data files of a request log: compressed, with statistics for the columns that queries filter by."""

from collections.abc import Iterable
from functools import partial

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from forecache.lake.delta.files import DataFile, described, new_path, place_of, tried
from forecache.lake.delta.writers import new_folder
from forecache.realtime.log.record import DAY, TIMES, table_of
from forecache.settings import Settings

_BOUNDS = ["request_id", "arrived_at", "key", "release", "model_version", "arm", "rung", "late", *TIMES]
_ALIKE = ["release", "model_version", "arm", "score_dtype", "rung", "why", "replica", "items", "deadline_ms"]
_GROUP_ROWS = 8192


def write_day(settings: Settings, name: str, day: str, rows: Iterable[pa.Table], schema: pa.Schema) -> DataFile:
    """Write rows of a day, without the day column, as one data file that is not yet committed.

    Args:
        rows: Iterated once for each attempt; one table at a time is in memory.
    """
    filesystem, path = place_of(settings, table_of(name)).open(), new_path(new_folder(), {DAY: day})
    return tried(partial(_write, filesystem, path, rows, schema), is_remote=settings.lake_is_remote)


def _write(filesystem: pa.fs.FileSystem, path: str, rows: Iterable[pa.Table], schema: pa.Schema) -> DataFile:
    if isinstance(filesystem, pa.fs.SubTreeFileSystem):
        filesystem.create_dir(path.rpartition("/")[0], recursive=True)
    with (
        filesystem.open_output_stream(path) as sink,
        pq.ParquetWriter(
            sink, schema, compression="zstd", compression_level=1, use_dictionary=_ALIKE, write_statistics=_BOUNDS,
            store_schema=False,
        ) as writer,
    ):  # fmt: skip
        for some in rows:
            writer.write_table(some, _GROUP_ROWS)
    with filesystem.open_input_file(path) as source:
        metadata = pq.read_metadata(source)
    return described(path, filesystem.get_file_info(path).size, metadata)
