"""Rows that SQL of declarations gives: features, labels and entities of nights, by DuckDB or by Spark.

Each night is a query of its own over the source rows of that night, so no row can see another night's, and its result
does not depend on which nights are computed together.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, timedelta
from functools import reduce
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

import pyarrow as pa
import pyarrow.compute as pc

from forecache.base.errors import InputError, SettingsError
from forecache.base.plugins import load_hook
from forecache.base.settings import Settings
from forecache.declare import AS_OF, AnySource, FeatureView, Pipeline, TableSource
from forecache.declare.sources.column import key_types
from forecache.declare.sql.statement import ENTITIES, Statement
from forecache.kit.delta.damage import as_damaged_error
from forecache.kit.delta.dataset import open_dataset
from forecache.kit.delta.tables import open_table
from forecache.lake.ingest.typed_rows import TYPES
from forecache.lake.query import first_line, quote_name, quote_text, scratch_database
from forecache.lake.sources import Pins, horizon_rows, known_rows, state_files
from forecache.lake.stored_features import RowBatches, TextEmbedding, embed_texts, stored_type

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_BATCH_ROWS = 1 << 16


class RowsOfSource(NamedTuple):
    """Rows of a source: those of a dataset or table that meet a condition; `day` is their `event_day`, both as SQL."""

    rows: Any
    where: str
    day: str


def view_query_rows(
    settings: Settings, view: FeatureView, nights: Sequence[date], *, pins: Pins | None = None
) -> RowBatches:
    """Key columns, `as_of` and the features of a view in their stored types, computed by its SQL on nights."""
    statement = view.statement
    assert statement is not None, f"the features of {view.name!r} are not SQL"
    stored = {feature.name: stored_type(feature) for feature in view.feature_columns}
    columns = _columns(statement, view.key, view.sources, stored)
    texts = {each.name: embed_texts(each, view.name) for each in view.feature_columns if each.type == "text"}
    about = f"The SQL of the features of {view.name!r}"
    batches = _night_batches(settings, statement, view.sources, nights, about, pins=pins)
    return RowBatches(columns, (_fit(batch, columns, texts) for batch in batches))


def label_query_rows(
    settings: Settings,
    pipeline: Pipeline,
    nights: Sequence[date],
    *,
    entities: pa.Table | None = None,
    pins: Pins | None = None,
) -> RowBatches:
    """Key columns, `as_of`, the label (double, of classes string) and its weight (double) by its SQL on nights.

    Args:
        entities: Key columns and `as_of` of the entities; needed if the SQL reads them.
    """
    statement, label = pipeline.label_statement, pipeline.trained_label
    assert statement is not None, f"the label of {pipeline.name!r} is not SQL"
    assert entities is not None or not statement.reads_entities, "the SQL of the label reads the entities"
    columns = _columns(statement, pipeline.key, pipeline.all_sources, {})
    about, days = f"The SQL of the label of {pipeline.inline_name}", label.horizon_days
    batches = _night_batches(
        settings, statement, pipeline.label_sources, nights, about, pins=pins, horizon_days=days, entities=entities
    )
    return RowBatches(columns, (_fit(batch, columns, {}) for batch in batches))


def entity_query_rows(
    settings: Settings, pipeline: Pipeline, nights: Sequence[date], *, pins: Pins | None = None
) -> RowBatches:
    """Key columns, `as_of` and the further columns of a pipeline's entities by their SQL on nights."""
    statement, declared = pipeline.entities_statement, pipeline.entities
    assert declared is not None, f"the pipeline {pipeline.name!r} has no entities"
    assert statement is not None, f"the entities of {pipeline.name!r} are not SQL"
    columns = _columns(statement, pipeline.key, pipeline.all_sources, {})
    about = f"The SQL of the entities of {pipeline.inline_name}"
    batches = _night_batches(settings, statement, declared.sources, nights, about, pins=pins)
    return RowBatches(columns, (_fit(batch, columns, {}) for batch in batches))


def view_query_frame(
    spark: "SparkSession", settings: Settings, view: FeatureView, nights: Sequence[date], *, pins: Pins | None
) -> "DataFrame":
    """Key columns, `as_of` and the features of a view by its SQL on nights, as Spark's frame."""
    assert view.statement is not None
    rows = [known_rows(spark, settings, view.sources, [night], pins=pins) for night in nights]
    return _union(spark, view.statement, nights, rows)


def label_query_frame(
    spark: "SparkSession",
    settings: Settings,
    pipeline: Pipeline,
    entities: "DataFrame",
    nights: Sequence[date],
    *,
    pins: Pins | None,
) -> "DataFrame":
    """Key columns, `as_of`, the label and its weight by its SQL on nights, as Spark's frame."""
    statement, days = pipeline.label_statement, pipeline.trained_label.horizon_days
    assert statement is not None
    rows = []
    for night in nights:
        happened = horizon_rows(spark, settings, pipeline.label_sources, [night], days, pins=pins)
        there = {ENTITIES: entities.where(entities[AS_OF] == night)} if statement.reads_entities else {}
        rows.append({**happened, **there})
    return _union(spark, statement, nights, rows)


def entity_query_frame(
    spark: "SparkSession", settings: Settings, pipeline: Pipeline, nights: Sequence[date], *, pins: Pins | None
) -> "DataFrame":
    """Key columns, `as_of` and the further columns of a pipeline's entities by their SQL, as Spark's frame."""
    assert pipeline.entities is not None
    assert pipeline.entities_statement is not None
    rows = [known_rows(spark, settings, pipeline.entities.sources, [night], pins=pins) for night in nights]
    return _union(spark, pipeline.entities_statement, nights, rows)


def _union(
    spark: "SparkSession", statement: Statement, nights: Sequence[date], rows: Sequence[Mapping[str, "DataFrame"]]
) -> "DataFrame":
    # Otherwise a sum that overflows or a wrong cast would give another value than DuckDB's error.
    if spark.conf.get("spark.sql.ansi.enabled") != "true":
        raise SettingsError(
            "SQL of declarations needs Spark's spark.sql.ansi.enabled=true, and it is false.",
            remedy="Remove it from FORECACHE_SPARK_CONF.",
        )
    frames = [_query_frame(spark, statement, night, each) for night, each in zip(nights, rows, strict=True)]
    return reduce(lambda one, other: one.unionByName(other), frames)


def _query_frame(
    spark: "SparkSession", statement: Statement, night: date, rows: Mapping[str, "DataFrame"]
) -> "DataFrame":
    names = {name: f"forecache_{uuid4().hex}" for name in rows}
    try:
        for name, frame in rows.items():
            frame.createOrReplaceTempView(names[name])
        return spark.sql(statement.write_query("spark", names, night.isoformat()))
    finally:
        for view in names.values():
            spark.catalog.dropTempView(view)


def select_rows(
    statement: Statement | None, rows: Mapping[str, Iterable[Mapping[str, Any]]], as_of: date
) -> list[dict[str, Any]]:
    """The rows of a declaration's SQL over rows that a test writes by hand, by table and column; unsorted.

    Args:
        statement: `statement` of a view, `label_statement` or `entities_statement` of a pipeline.
        rows: Rows known on the as-of date, of a label those of its horizon and of `entities`. Columns that are left out
            are null; events have their day as `event_day`.
    """
    import duckdb

    assert statement is not None, "the declaration has no SQL"
    with duckdb.connect() as connection:
        for table, columns in statement.tables.items():
            known = [{**row, AS_OF: as_of} for row in rows.get(table, ())]
            schema = pa.schema([(name, TYPES[kind]) for name, kind in columns.items()])
            connection.register(table, pa.Table.from_pylist(known, schema))
        names = {table: quote_name(table) for table in statement.tables}
        found = connection.sql(statement.write_query("duckdb", names, as_of.isoformat()))
        return list(found.to_arrow_table().to_pylist())


_DUCKDB = {
    "string": "VARCHAR",
    "int": "INTEGER",
    "bigint": "BIGINT",
    "double": "DOUBLE",
    "date": "DATE",
    "boolean": "BOOLEAN",
}


def _columns(
    statement: Statement, key: Sequence[str], sources: Iterable[AnySource], stored: Mapping[str, pa.DataType]
) -> pa.Schema:
    """The columns of a statement, `as_of` after the key; key columns have their declared type."""
    kinds = {name: value.type for name, value in statement.columns.items()}
    types = {name: TYPES.get(kind.name, pa.decimal128(38, kind.scale)) for name, kind in kinds.items()}
    types |= {name: pa.int32() for name, kind in key_types(key, sources).items() if kind == "int"} | {**stored}
    others = [(name, kind) for name, kind in types.items() if name not in key]
    return pa.schema([*((name, types[name]) for name in key), (AS_OF, pa.date32()), *others])


def _fit(batch: pa.RecordBatch, columns: pa.Schema, texts: Mapping[str, TextEmbedding]) -> pa.RecordBatch:
    arrays = []
    for field in columns:
        values = batch.column(field.name)
        if field.name in texts:
            values = texts[field.name](values.cast(pa.string()))
        arrays.append(values.cast(field.type, safe=False))
    return pa.RecordBatch.from_arrays(arrays, schema=columns)


def _night_batches(
    settings: Settings,
    statement: Statement,
    sources: Sequence[AnySource],
    nights: Sequence[date],
    about: str,
    *,
    pins: Pins | None,
    horizon_days: int | None = None,
    entities: pa.Table | None = None,
) -> Iterator[pa.RecordBatch]:
    """The rows of a statement on nights, one after the other, in bounded memory."""
    pins = pins or Pins(settings)
    with scratch_database(settings) as connection, _explain_errors(about):
        for night in nights:
            pieces = {each.name: _source_pieces(settings, each, night, horizon_days, pins) for each in sources}
            names, registered = dict[str, str](), list[str]()
            for source in sources:
                parts = []
                for piece in pieces[source.name]:
                    registered.append(f"rows_{len(registered)}")
                    connection.register(registered[-1], piece.rows)
                    parts.append(_select_piece(source, registered[-1], piece, night))
                names[source.name] = f"({' UNION ALL '.join(parts) or _select_nothing(source)})"
            if entities is not None:
                registered.append(f"rows_{len(registered)}")
                connection.register(registered[-1], entities.filter(pc.equal(entities[AS_OF], pa.scalar(night))))
                names[ENTITIES] = registered[-1]
            query = statement.write_query("duckdb", names, night.isoformat())
            yield from connection.sql(query).to_arrow_reader(_BATCH_ROWS)
            for name in registered:
                connection.unregister(name)


@contextmanager
def _explain_errors(about: str) -> Iterator[None]:
    import duckdb

    try:
        yield
    except duckdb.Error as error:
        if (damaged := as_damaged_error(error)) is not None:
            raise damaged from None
        raise InputError(f"{about} failed: {first_line(error)}.", remedy="Change the SQL or the rows.") from None


def _select_piece(source: AnySource, name: str, piece: RowsOfSource, night: date) -> str:
    listed = [_select_column(column.name, column.type) for column in source.columns if column.name not in _ADDED]
    return (
        f"SELECT {', '.join(listed)}, {piece.day} AS event_day, DATE '{night}' AS {AS_OF} "
        f"FROM {quote_name(name)} WHERE {piece.where}"
    )


def _select_column(name: str, kind: str) -> str:
    quoted = quote_name(name)
    return f"CAST({quoted} AS {_DUCKDB[kind]}) AS {quoted}" if kind in _DUCKDB else quoted


def _select_nothing(source: AnySource) -> str:
    kinds = {column.name: _DUCKDB.get(column.type, "TIMESTAMP") for column in source.columns}
    kinds |= dict.fromkeys(_ADDED, "DATE")
    return (
        f"SELECT {', '.join(f'CAST(NULL AS {kind}) AS {quote_name(name)}' for name, kind in kinds.items())} WHERE FALSE"
    )


_ADDED = ("event_day", AS_OF)


def _source_pieces(
    settings: Settings, source: AnySource, night: date, horizon_days: int | None, pins: Pins
) -> list[RowsOfSource]:
    """The rows of a source that are known on a night, or with a horizon those after it; as `known_rows` has them."""
    if isinstance(source, TableSource):
        pieces: list[RowsOfSource] = load_hook("table_sources", "night_rows")(pins.pin(source), night, horizon_days)
        return pieces
    raw = open_dataset(open_table(settings, source.raw_table))
    if source.time is None:
        return [RowsOfSource(raw, days_until(night, horizon_days, "event_day"), "event_day")]
    files = state_files(settings, source, night, horizon_days)
    chosen = [f"event_day = DATE '{day}' AND source_file = {quote_text(file)}" for day, file in files]
    return [RowsOfSource(raw, where, "event_day") for where in chosen]


def days_until(night: date, horizon_days: int | None, day: str) -> str:
    """The condition on a day, as SQL, that it is at or before a night, or with a horizon in the days after it."""
    if horizon_days is None:
        return f"{day} <= DATE '{night}'"
    return f"{day} > DATE '{night}' AND {day} <= DATE '{night + timedelta(days=horizon_days)}'"
