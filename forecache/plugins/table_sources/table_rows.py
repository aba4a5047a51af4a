"""The rows of existing tables at as-of dates, read at the pinned state: by Spark, or by Arrow for one day."""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from forecache.base.errors import InputError, UnavailableError
from forecache.declare import AS_OF, Column, Static
from forecache.kit.delta.dataset import open_dataset, open_native
from forecache.kit.delta.errors import as_missing_file_error
from forecache.kit.spark.session import spark_path
from forecache.lake.query import quote_name
from forecache.lake.sources import cut_events
from forecache.lake.sql_rows import RowsOfSource, days_until
from forecache.plugins.table_sources.delta_table import open_delta, require_version
from forecache.plugins.table_sources.pinned_table import NANOSECONDS, PinnedTable, source_error

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


def as_of_rows(
    spark: "SparkSession", pinned: PinnedTable, nights: Sequence[date], horizon_days: int | None
) -> "DataFrame":
    """The declared columns, `event_day` and `as_of`: for each night the events up to it, or its state.

    With a horizon those of (night, night + horizon]: events, or the states of days that have one. InputError if a state
    has a key twice, or null in one, or a version no longer exists.
    """
    source = pinned.source
    if isinstance(source.time, Static):
        rows = _rows(spark, pinned)
        if horizon_days is None:
            _require_keys(rows, pinned, "it")
        return _repeat_for_nights(rows, nights)
    if horizon_days is None and source.time is None:
        return cut_events(_rows(spark, pinned), nights, after=None, until=0)
    if horizon_days is None and not pinned.is_by_version:
        return _states_by_day(spark, pinned, nights)
    if horizon_days is None:
        return _states_by_version(spark, pinned, ((night, pinned.version_of(night), night) for night in nights))
    if not pinned.is_by_version:
        return cut_events(_rows(spark, pinned), nights, after=0, until=horizon_days)
    horizon = timedelta(days=horizon_days)
    later = ((n, pinned.version_of(day), day) for n in nights for day in pinned.commit_days() if n < day <= n + horizon)
    return _states_by_version(spark, pinned, later)


def _rows(spark: "SparkSession", pinned: PinnedTable, version: int | None = None) -> "DataFrame":
    """The declared columns with the declared types, and `event_day`, null if the rows have no day."""
    from pyspark.sql import functions as F

    source = pinned.source
    _require_file_system(spark, pinned)
    root = spark_path(pinned.place.uri)
    if pinned.version is None:
        table = _read_parquet(spark, pinned, root)
    else:
        at = pinned.version if version is None else version
        table = spark.read.format("delta").option("versionAsOf", at).load(root)
    kept = [column for column in source.columns if column.name not in ("event_day", AS_OF)]
    columns = [F.col(f"`{column.name}`").cast(column.type).alias(column.name) for column in kept]
    day = F.to_date(F.col(f"`{source.day_column}`")) if source.day_column else F.lit(None).cast("date")
    return table.select(*columns, day.alias("event_day"))


def _read_parquet(spark: "SparkSession", pinned: PinnedTable, root: str) -> "DataFrame":
    from pyspark.errors import AnalysisException
    from pyspark.sql import functions as F

    types = {column.name: pinned.read_types.get(column.name, column.type) for column in pinned.source.columns}
    times = [c.name for c in pinned.source.columns if c.type == "timestamp" and types[c.name] == NANOSECONDS]
    if times:
        spark.conf.set("spark.sql.legacy.parquet.nanosAsLong", "true")
    reader = spark.read.option("basePath", root).schema(", ".join(f"`{name}` {kind}" for name, kind in types.items()))
    try:
        table = reader.parquet(*(f"{root}/{file.path}" for file in pinned.files))
    except AnalysisException as error:
        if error.getCondition() != "PATH_NOT_FOUND":
            raise
        raise UnavailableError(
            f"Source {pinned.source.name!r} cannot be read: a file went from {pinned.place.uri} meanwhile.",
            remedy="Run again.",
        ) from error
    return table.withColumns(
        {name: F.timestamp_micros(F.expr(f"(`{name}` - pmod(`{name}`, 1000L)) div 1000L")) for name in times}
    )


def _states_by_day(spark: "SparkSession", pinned: PinnedTable, nights: Sequence[date]) -> "DataFrame":
    """States that are the rows of a day: for each night those of the last day up to it."""
    from pyspark.sql import functions as F

    rows = _rows(spark, pinned)
    if pinned.has_one_day_files:
        chosen = {night: pinned.day_of(night) for night in nights}
    else:
        known = rows.where(F.col("event_day") <= F.lit(max(nights))).select("event_day").distinct().collect()
        chosen = {night: max((row[0] for row in known if row[0] <= night), default=None) for night in nights}
    pairs = [(night, day) for night, day in chosen.items() if day is not None]
    states = rows.where(F.col("event_day").isin(sorted({day for _, day in pairs})))
    _require_keys(states, pinned, "the state of event_day")
    of_nights = spark.createDataFrame(pairs, f"{AS_OF} date, event_day date")
    return states.join(F.broadcast(of_nights), "event_day").select(*rows.columns, AS_OF)


def _states_by_version(
    spark: "SparkSession", pinned: PinnedTable, chosen: Iterable[tuple[date, int | None, date]]
) -> "DataFrame":
    """States that are versions, each read once, for nights given with version and day."""
    from pyspark.sql import functions as F

    nights: dict[int, list[tuple[date, date]]] = {}
    for night, version, day in chosen:
        if version is not None:
            nights.setdefault(version, []).append((night, day))
    frames = [_rows(spark, pinned).limit(0).withColumn(AS_OF, F.lit(None).cast("date"))]
    for version, pairs in sorted(nights.items()):
        state = _state(spark, pinned, pinned.newest_equal_version(version))
        dated = F.explode(F.array(*(F.struct(F.lit(n).alias(AS_OF), F.lit(d).alias("day")) for n, d in pairs)))
        rows = state.withColumn("_of", dated).withColumns({"event_day": F.col("_of.day"), AS_OF: F.col(f"_of.{AS_OF}")})
        frames.append(rows.drop("_of"))
    union = frames[0]
    for frame in frames[1:]:
        union = union.unionByName(frame)
    return union


def _state(spark: "SparkSession", pinned: PinnedTable, version: int) -> "DataFrame":
    """The rows of a version, whose keys are looked at once: a version never changes."""
    from pyspark.sql import functions as F

    if version not in pinned.states:
        require_version(pinned, version)
        state = _rows(spark, pinned, version)
        _require_keys(state, pinned, f"version {version}")
        pinned.states[version] = state
    state = pinned.states[version]
    # New columns, as a declaration may join the states of features with those of the label.
    return state.select(*(F.col(f"`{name}`").alias(name) for name in state.columns))


def _repeat_for_nights(rows: "DataFrame", nights: Sequence[date]) -> "DataFrame":
    from pyspark.sql import functions as F

    return rows.withColumn(AS_OF, F.explode(F.array(*(F.lit(night) for night in sorted(nights)))))


def _require_keys(states: "DataFrame", pinned: PinnedTable, what: str) -> None:
    """Refuse states that have a key twice, or a null in one; without a declared key nothing is checked."""
    from pyspark.sql import functions as F

    source = pinned.source
    if not source.key:
        return
    counts = states.groupBy("event_day", *source.key).count()
    is_null = F.greatest(*(F.col(name).isNull() for name in source.key), F.lit(False))
    try:
        found = counts.where((F.col("count") > 1) | is_null).limit(1).collect()
    except Exception as error:
        raise as_missing_file_error(error) or error from error
    if not found:
        return
    row = found[0]
    day = f" {row['event_day']}" if row["event_day"] is not None else ""
    raise duplicate_key_error(pinned, row.asDict(), row["count"], f"{what}{day}")


def duplicate_key_error(pinned: PinnedTable, row: Mapping[str, Any], rows: int, what: str) -> InputError:
    """The error for a state, such as "version 3", that has the key of a row in several rows, or a null in one."""
    source = pinned.source
    key = ", ".join(f"{name} {row[name]}" for name in source.key)
    return InputError(
        f"Source {source.name!r} has the key {key} in {rows:,} rows of {what} in {pinned.place.uri}.",
        remedy="A state has one row for each key, and no null in it: mend the table, or declare the whole key.",
    )


def _require_file_system(spark: "SparkSession", pinned: PinnedTable) -> None:
    if not pinned.place.uri.startswith("s3://"):
        return
    java = spark.sparkContext._jvm
    assert java is not None
    if not java.org.apache.spark.util.Utils.classIsLoadable("org.apache.hadoop.fs.s3a.S3AFileSystem"):
        raise UnavailableError(
            f"Source {pinned.source.name!r} is in {pinned.place.uri}, and Spark has no jars for S3.",
            remedy="Run `make setup-s3`, and set FORECACHE_STORAGE_OPTIONS.",
        )


def night_rows(pinned: PinnedTable, night: date, horizon_days: int | None) -> list[RowsOfSource]:
    """The rows of an existing table that are known on a night, or with a horizon those after it, as `as_of_rows`."""
    source, day = pinned.source, "CAST(NULL AS DATE)"
    if source.day_column:
        kinds: dict[str, str] = {column.name: column.type for column in source.columns}
        name = quote_name(source.day_column)
        # A time with a zone would become the date of the machine's.
        is_time = kinds[source.day_column] == "timestamp"
        day = f"CAST(make_timestamp(epoch_us({name})) AS DATE)" if is_time else name
    names = [column.name for column in source.columns if column.name not in ("event_day", AS_OF)]
    is_by_day = source.time is None or (not isinstance(source.time, Static) and not pinned.is_by_version)
    if source.time is None or (horizon_days is not None and is_by_day):
        return [RowsOfSource(_dataset(pinned, pinned.version), days_until(night, horizon_days, day), day)]
    if horizon_days is None or isinstance(source.time, Static):
        states = [(night, existing_table_rows(pinned, night, names))]
    else:
        days = (each for each in pinned.commit_days() if night < each <= night + timedelta(days=horizon_days))
        states = [(each, existing_table_rows(pinned, each, names)) for each in days]
    of = {each: f"DATE '{each}'" if pinned.is_by_version else day for each, _ in states}
    return [RowsOfSource(rows, "TRUE", of[each]) for each, rows in states if rows is not None]


def existing_table_rows(pinned: PinnedTable, day: date, columns: Sequence[str]) -> pa.Table | None:
    """Columns of the rows of an existing table that are valid on a day: of events all, else the state."""
    source = pinned.source
    if source.time is not None and not pinned.has_state(day):
        return None
    version = pinned.version_of(day) if pinned.is_by_version else pinned.version
    day_column = [source.day_column] if source.day_column else []
    rows = _read(pinned, version, list(dict.fromkeys([*columns, *source.key, *day_column])))
    what = "its files" if version is None else f"version {version}"
    if source.time is not None and day_column:
        days = rows[source.day_column]
        last = pc.max(days.filter(pc.less_equal(days, pa.scalar(day)))).as_py()
        if last is None:
            return None
        rows, what = rows.filter(pc.equal(days, pa.scalar(last))), f"{what}, the state of {last},"
    if source.time is not None and source.key:
        _require_arrow_keys(pinned, rows, what)
    return rows.select(list(columns))


def _read(pinned: PinnedTable, version: int | None, columns: list[str]) -> pa.Table:
    uri = pinned.place.uri
    try:
        rows = _dataset(pinned, version).to_table(columns)
        return _as_declared(pinned, rows) if version is None else rows
    except FileNotFoundError as error:
        raise source_error(
            pinned.source, f"a file of {uri} was removed since the run began: {error}", "Run again."
        ) from error
    except OSError as error:
        raise UnavailableError(
            f"Source {pinned.source.name!r} cannot be read: {uri} does not answer: {str(error).splitlines()[0]}.",
            remedy="Run again when it does.",
        ) from error


def _as_declared(pinned: PinnedTable, rows: pa.Table) -> pa.Table:
    """Decimals of Parquet as the nearest doubles, and times of it in whole microseconds, as Spark reads them."""
    for place, name in enumerate(rows.column_names):
        values, kind = rows[name], rows.schema.field(name).type
        if pa.types.is_decimal(kind):  # Arrow's own cast is not to the nearest
            rows = rows.set_column(place, name, values.cast(pa.string()).cast(pa.float64()))
        elif pa.types.is_timestamp(kind):
            rows = rows.set_column(place, name, pc.floor_temporal(values, unit="microsecond").cast(pa.timestamp("us")))
    return rows


def _dataset(pinned: PinnedTable, version: int | None) -> Any:
    """Rows to scan; of Parquet, decimals and nanoseconds as they are, which only DuckDB casts as Spark does."""
    source, place = pinned.source, pinned.place
    if version is None:
        schema = pa.schema([(column.name, _type_to_read(pinned, column)) for column in source.columns])
        paths = [file.path for file in pinned.files]
        parts = ds.partitioning(schema, flavor="hive")
        filesystem = open_native(place.uri, place.options) or place.open()
        return ds.dataset(paths, schema, format="parquet", filesystem=filesystem, partitioning=parts)
    from deltalake.exceptions import DeltaError

    require_version(pinned, version)
    table = open_delta(source, place, version)
    try:
        return open_dataset(table)
    except DeltaError as error:
        what = f"version {version} of {place.uri} can be read by Spark only: {str(error).splitlines()[0]}"
        raise source_error(source, what, "Rewrite it without deletion vectors and column mapping.") from error


def _type_to_read(pinned: PinnedTable, column: Column) -> pa.DataType:
    kind = pinned.read_types.get(column.name, "")
    if column.type == "timestamp" and kind == NANOSECONDS:
        return pa.timestamp("ns")
    if column.type == "double" and kind:
        precision, scale = map(int, re.findall(r"\d+", kind))
        return pa.decimal128(precision, scale)
    return _ARROW[column.type]


def _require_arrow_keys(pinned: PinnedTable, rows: pa.Table, what: str) -> None:
    counts = rows.group_by(list(pinned.source.key)).aggregate([([], "count_all")])
    bad: Any = pc.greater(counts["count_all"], 1)
    for name in pinned.source.key:
        bad = pc.or_(bad, pc.is_null(counts[name]))
    for row in counts.filter(bad).slice(0, 1).to_pylist():
        raise duplicate_key_error(pinned, row, row["count_all"], what)


_ARROW: dict[str, pa.DataType] = {
    "string": pa.string(), "int": pa.int32(), "bigint": pa.int64(), "double": pa.float64(), "date": pa.date32(),
    "timestamp": pa.timestamp("us"), "boolean": pa.bool_(),
}  # fmt: skip
