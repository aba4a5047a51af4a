"""The rows of a training set without Spark, in the files and in the order in which Spark writes them.

So a model that is trained on them has the same bits, whichever engine wrote its training set.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from forecache.base.settings import Settings
from forecache.base.spark_hashes import shuffle_partitions, xxhash64
from forecache.declare import AS_OF, Pipeline
from forecache.kit.delta.errors import as_known_error, translate_errors
from forecache.kit.delta.files import DataFile, new_path, place_of, retry_write, write_file
from forecache.kit.delta.writers import join_to_groups, new_folder
from forecache.lake.arrow_rows import ViewJoin, join_views, label_rows, view_rows
from forecache.lake.query import quote_name
from forecache.lake.sources import Pins
from forecache.lake.stored_features import RowBatches

if TYPE_CHECKING:
    from deltalake import Schema

SPLITS = ("train", "validation", "test")
PLACES = 1 << 20
NUM_FILES = 8
_SPLIT, _FILE, _LABELS = "split", "file number", "labels of nights"  # no column of a table has blanks


def write_labelled_rows(
    settings: Settings, pipeline: Pipeline, dates: Mapping[str, Sequence[date]], *, pins: Pins
) -> "tuple[Schema, list[DataFile]]":
    """Write the rows that `labelled_frame` has, by their files; returns their columns and the files."""
    from deltalake import Schema

    nights = sorted({day for split in SPLITS for day in dates[split]})
    views = {view.name: view_rows(settings, view, nights, pins=pins) for view in pipeline.views}
    with join_views(settings, pipeline, nights, views, pins=pins, extend=partial(_add_places, pipeline, dates)) as join:
        labels = label_rows(settings, pipeline, nights, entities=join.entities(), pins=pins)
        join.load(_LABELS, labels)
        sql = join.sql(labels=_LABELS, more=[_SPLIT, _FILE])
        join.connection.execute(f"CREATE TABLE labelled AS {sql}")
        columns = [(name, labels.schema.field(name).type) for name in pipeline.trained_label.columns]
        schema = pa.schema([*join.schema, *columns, (_SPLIT, pa.string())])
        with translate_errors(partial(as_known_error, pipeline.training_table)):
            files = list(_write_files(settings, pipeline, join, schema))
    return Schema.from_arrow(schema), files


def _add_places(pipeline: Pipeline, dates: Mapping[str, Sequence[date]], rows: RowBatches) -> RowBatches:
    """Add the split of each row, and the number of its file."""

    def extend() -> Iterator[pa.RecordBatch]:
        for batch in rows.batches:
            number = shuffle_partitions([batch.column(name) for name in (*pipeline.key, AS_OF)], NUM_FILES)
            added = [split_of_rows(pipeline, dates, batch), pa.array(number)]
            yield pa.RecordBatch.from_arrays([*batch.columns, *added], schema=schema)

    schema = pa.schema([*rows.schema, (_SPLIT, pa.string()), (_FILE, pa.int64())])
    return RowBatches(schema, extend())


def split_of_rows(pipeline: Pipeline, dates: Mapping[str, Sequence[date]], rows: pa.RecordBatch) -> pa.Array:
    """The split of each row: by its date, or by a hash of its key."""
    shares = pipeline.training.split
    if shares is None:
        of_day = {day: split for split in reversed(SPLITS) for day in dates[split]}
        return pa.array([of_day[day] for day in rows.column(AS_OF).to_pylist()], pa.string())
    place = (xxhash64([rows.column(name) for name in pipeline.key]) % PLACES) / PLACES
    numbers = np.where(place < shares.test, 2, np.where(place < shares.test + shares.validation, 1, 0))
    return pa.DictionaryArray.from_arrays(pa.array(numbers), pa.array(SPLITS)).cast(pa.string())


def _write_files(settings: Settings, pipeline: Pipeline, join: ViewJoin, schema: pa.Schema) -> Iterator[DataFile]:
    filesystem, folder = place_of(settings, pipeline.training_table).open(), new_folder()
    names, order = (", ".join(map(quote_name, some)) for some in (schema.names, (*pipeline.key, AS_OF)))
    file = quote_name(_FILE)
    for (number,) in join.connection.execute(f"SELECT DISTINCT {file} FROM labelled ORDER BY 1").fetchall():
        sql = f"SELECT {names} FROM labelled WHERE {file} = {number} ORDER BY {order}"

        def write(sql: str = sql, path: str = new_path(folder, {}, number=number)) -> DataFile:
            tables = (pa.Table.from_batches([batch]) for batch in join.batches(sql, schema))
            return write_file(filesystem, path, schema, join_to_groups(tables))

        yield retry_write(write, is_remote=settings.lake_is_remote)
