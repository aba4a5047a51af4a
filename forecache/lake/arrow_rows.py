"""The rows of nights without Spark, as Arrow batches: features of a view, features joined from views, and labels.

Views, entities and labels that are functions on Spark's frames have none. DuckDB joins in bounded memory.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import date
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from forecache.base.plugins import load_hook
from forecache.base.results import Progress, no_progress
from forecache.base.settings import Settings
from forecache.declare import AS_OF, FeatureView, Pipeline
from forecache.kit.delta.files import DataFile, fit_columns, place_of, read_file_rows
from forecache.kit.delta.log import active_files, group_by_partition
from forecache.kit.delta.tables import open_table
from forecache.kit.delta.writers import fit_schema, write_partition
from forecache.lake.contracts import require_key_types
from forecache.lake.query import quote_name, scratch_database
from forecache.lake.sources import Pins
from forecache.lake.sql_rows import entity_query_rows, label_query_rows, view_query_rows
from forecache.lake.stored_features import RowBatches, stored_type

if TYPE_CHECKING:
    from deltalake import Schema

_SPARK_NAMES = {
    pa.int8(): "tinyint",
    pa.int16(): "smallint",
    pa.int32(): "int",
    pa.int64(): "bigint",
    pa.date32(): "date",
    pa.large_string(): "string",
    pa.null(): "void",
}
_BATCH_ROWS = 1 << 16


def view_rows(
    settings: Settings,
    view: FeatureView,
    nights: Sequence[date],
    *,
    pins: Pins | None = None,
    progress: Progress = no_progress,
    asked: pa.Table | None = None,
) -> RowBatches:
    """Key columns, `as_of` and the features in their stored types, computed from the sources; as `view_frame`."""
    if view.statement is not None:
        return view_query_rows(settings, view, nights, pins=pins)
    window_rows = load_hook("window_features", "window_rows")
    rows: RowBatches = window_rows(settings, view, nights, progress=progress, asked=asked)
    return rows


def label_rows(
    settings: Settings, pipeline: Pipeline, nights: Sequence[date], *, entities: pa.Table, pins: Pins | None = None
) -> RowBatches:
    """Key columns, `as_of`, the label (double, of classes string) and its weight (double) of entities on nights."""
    schema, batches = label_query_rows(settings, pipeline, nights, entities=entities, pins=pins)
    kinds = (pa.string() if pipeline.trained_label.kind == "multiclass" else pa.float64()), pa.float64()
    types = dict(zip(pipeline.trained_label.columns, kinds, strict=False))
    typed = pa.schema([(field.name, types.get(field.name, field.type)) for field in schema])
    return RowBatches(typed, (fit_columns(batch, typed) for batch in batches))


def entity_rows(
    settings: Settings, pipeline: Pipeline, nights: Sequence[date], *, pins: Pins | None = None
) -> RowBatches:
    """Key columns, `as_of` and the further columns of a pipeline's declared entities on nights."""
    return entity_query_rows(settings, pipeline, nights, pins=pins)


def view_table_rows(settings: Settings, view: FeatureView, versions: Mapping[date, int]) -> RowBatches:
    """The rows of a view's table on nights, each at the Delta version that wrote it; null where a column is missing."""
    filesystem = place_of(settings, view.feature_table).open()
    opened = {each: open_table(settings, view.feature_table, version=each) for each in sorted(set(versions.values()))}
    known = pa.schema(opened[max(opened)].schema())
    features = [(each.name, stored_type(each)) for each in view.feature_columns]
    schema = pa.schema([*(known.field(name) for name in (*view.key, AS_OF)), *features])

    def read() -> Iterator[pa.RecordBatch]:
        for version, delta in opened.items():
            files = group_by_partition(active_files(delta), AS_OF)
            for night in (night for night, wrote in versions.items() if wrote == version):
                yield from read_file_rows(filesystem, view.feature_table, files.get(night.isoformat(), ()), schema)

    return RowBatches(schema, read())


@contextmanager
def joined_rows(
    settings: Settings, pipeline: Pipeline, night: date, versions: Mapping[str, int], *, pins: Pins | None = None
) -> Iterator[RowBatches]:
    """Key columns, `as_of` and the features of all views on a night, from their tables at the given versions."""
    views = {view.name: view_table_rows(settings, view, {night: versions[view.name]}) for view in pipeline.views}
    with join_views(settings, pipeline, [night], views, pins=pins) as join:
        yield RowBatches(join.schema, join.batches(join.sql(), join.schema))


def write_nights(
    settings: Settings,
    table: str,
    nights: Sequence[date],
    rows_of: Callable[[date], AbstractContextManager[RowBatches]],
) -> "tuple[Schema, list[DataFile]]":
    """Write the rows of nights, one after the other, as partitions of a table; returns its columns and the files.

    Columns are cast to their types in the table if those are wider; InputError if they do not fit.
    """
    from deltalake import Schema

    files, schema = list[DataFile](), pa.schema([])
    for night in nights:
        with rows_of(night) as rows:
            schema = fit_schema(rows.schema, settings, table)
            of_files = schema.remove(schema.get_field_index(AS_OF))
            files += write_partition(rows.batches, of_files, settings, table, {AS_OF: night})
    return Schema.from_arrow(schema), files


@contextmanager
def join_views(
    settings: Settings,
    pipeline: Pipeline,
    nights: Sequence[date],
    views: Mapping[str, RowBatches],
    *,
    pins: Pins | None = None,
    extend: Callable[[RowBatches], RowBatches] = lambda rows: rows,
) -> Iterator["ViewJoin"]:
    """Load the rows of each view, by its name, and the declared entities on nights; `extend` may give the rows that
    have the entities further columns."""
    tables = dict(views)
    if pipeline.entities is None:
        base = next(view.name for view in pipeline.views if view.key == pipeline.key)
    else:
        base = "entities of nights"  # no view has a name with blanks
        tables[base] = entity_rows(settings, pipeline, nights, pins=pins)
    tables[base] = extend(tables[base])
    with scratch_database(settings) as connection:
        join = ViewJoin(connection, pipeline, base)
        for name, rows in tables.items():
            join.load(name, rows)
        yield join


def load_table(connection: Any, name: str, rows: RowBatches) -> None:
    """Make a table of rows, which spills to the disk of a scratch database; raises what reading the rows raises."""
    import duckdb

    failures: list[Exception] = []

    def read() -> Iterator[pa.RecordBatch]:
        try:
            yield from rows.batches
        except Exception as error:  # DuckDB would keep its text alone
            failures.append(error)
            raise

    connection.register("given_rows", pa.RecordBatchReader.from_batches(rows.schema, read()))
    try:
        connection.execute(f"CREATE TABLE {quote_name(name)} AS FROM given_rows")
    except duckdb.Error:
        if failures:
            raise failures[0] from None
        raise
    finally:
        connection.unregister("given_rows")


class ViewJoin:
    """The views of a pipeline as tables of DuckDB, which spill to a disk, and their join to the entities."""

    def __init__(self, connection: Any, pipeline: Pipeline, base: str) -> None:
        self.connection, self._pipeline, self._base = connection, pipeline, base
        self._schemas: dict[str, pa.Schema] = {}

    def load(self, name: str, rows: RowBatches) -> None:
        """Make a table of rows."""
        load_table(self.connection, name, rows)
        self._schemas[name] = rows.schema

    def entities(self) -> pa.Table:
        """Key columns and `as_of` of the entities."""
        names = ", ".join(map(quote_name, (*self._pipeline.key, AS_OF)))
        return self.connection.sql(f"SELECT {names} FROM {quote_name(self._base)}").to_arrow_table()

    def sql(self, *, labels: str = "", more: Sequence[str] = ()) -> str:
        """A query of key columns, `as_of`, the features of all views, null for a view without the entity; then of the
        label in the table `labels`, for the entities in it alone, and of further columns of the entities."""
        base, tables = self._base, ""
        names = [_column(base, name) for name in (*self._pipeline.key, AS_OF)]
        for view in self._pipeline.views:
            names += [_column(view.name, name) for name in view.feature_names]
            if view.name != base:
                owner = f"The entities of pipeline {self._pipeline.name!r} have"
                given, found = (type_names(self._schemas[name]) for name in (base, view.name))
                require_key_types(owner, given, found, view)
                tables += f" LEFT JOIN {quote_name(view.name)} ON {_equal(base, view.name, view.key)}"
        if labels:
            names += [_column(labels, name) for name in self._pipeline.trained_label.columns]
            tables += f" JOIN {quote_name(labels)} ON {_equal(base, labels, self._pipeline.key)}"
        names += [_column(base, name) for name in more]
        return f"SELECT {', '.join(names)} FROM {quote_name(base)}{tables}"

    @property
    def schema(self) -> pa.Schema:
        """Key columns, `as_of` and the features of all views."""
        stored = {each.name: stored_type(each) for view in self._pipeline.views for each in view.feature_columns}
        kinds = {field.name: field.type for field in self._schemas[self._base]}
        keys = [(name, kinds[name]) for name in (*self._pipeline.key, AS_OF)]
        return pa.schema([*keys, *((name, stored[name]) for name in self._pipeline.feature_names)])

    def batches(self, sql: str, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """The rows of a query with the columns of a schema, in its types."""
        for batch in self.connection.sql(sql).to_arrow_reader(_BATCH_ROWS):
            yield fit_columns(batch, schema)


def _column(table: str, name: str) -> str:
    return f"{quote_name(table)}.{quote_name(name)}"


def _equal(one: str, other: str, key: Sequence[str]) -> str:
    return " AND ".join(f"{_column(one, name)} = {_column(other, name)}" for name in (*key, AS_OF))


def type_names(schema: pa.Schema) -> dict[str, str]:
    """Columns, and the names that Spark has for their types."""
    return {field.name: _describe_type(field.type) for field in schema}


def _describe_type(kind: pa.DataType) -> str:
    if pa.types.is_timestamp(kind):
        return "timestamp" if kind.tz else "timestamp_ntz"
    return _SPARK_NAMES.get(kind, str(kind))
