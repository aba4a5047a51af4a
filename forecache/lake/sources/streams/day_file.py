"""The events of a day in a stream's table, as a Parquet file with the columns of a source."""

from datetime import date
from pathlib import Path

from forecache.base.errors import InputError
from forecache.base.settings import Settings
from forecache.base.steps import extract_step
from forecache.base.table_names import STREAM
from forecache.declare import Source
from forecache.declare.sources.stream_day import StreamDay
from forecache.kit.delta.dataset import open_dataset
from forecache.kit.delta.tables import open_table

_BATCH_ROWS = 1 << 16
_POSITION, _DAY = "position", "event_day"


def write_day_file(settings: Settings, source: Source, extract: StreamDay, day: date, path: Path) -> tuple[int, int]:
    """Write the events of a day; returns their number and the highest position among them (-1: none).

    Rows of a stream are never changed or removed, so equal numbers mean equal rows.

    A column that the topic does not have, such as a label that comes later, is null.

    Raises:
        InputError: The stream's table lacks a required column of the source.
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
            columns = [
                batch.column(field.name) if field.name in there else pa.nulls(batch.num_rows, field.type)
                for field in schema
            ]
            writer.write_batch(pa.record_batch(columns, schema=schema))
            num_rows += batch.num_rows
            newest = max(newest, pc.max(batch.column(_POSITION)).as_py())
            extract_step("batch extracted")
    return num_rows, newest
