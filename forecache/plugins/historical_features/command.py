"""`forecache features`: the features of any table of keys and timestamps, as they were known at each of them."""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from forecache.base.errors import InputError
from forecache.cli.base import command, settings
from forecache.cli.output import show
from forecache.cli.progress import StageProgress

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame

    from forecache.base.settings import Settings
    from forecache.declare import FeatureView, Pipeline, Realtime


@command(
    "features",
    examples="""
    forecache features churn --spine asked.csv --out known.parquet
    forecache features customer --spine s3://lake/contacts --timestamp contacted_at --out known.csv --max-age 7
    """,
)
@click.argument("names", metavar="PIPELINE_OR_VIEW...", nargs=-1, required=True)
@click.option(
    "--spine", required=True, help="Keys and timestamps: a .parquet or .csv file, or a Delta table by its URI or name."
)
@click.option("--out", required=True, help="Where the rows go: a Parquet or CSV file, or the URI of a Delta table.")
@click.option("--timestamp", default="event_timestamp", show_default=True, help="The spine's column of times, UTC.")
@click.option("--max-age", type=click.FloatRange(min=0), help="Days after which what was known is left out.")
def features(names: tuple[str, ...], spine: str, out: str, timestamp: str, max_age: float | None) -> None:
    """Add the features of pipelines or feature views to a table, each row as known at its timestamp.

    A row sees the newest as-of date that had ended at its timestamp. The rows keep their order.
    """
    from forecache.lake.engine import decide_engine, find_spark_functions
    from forecache.plugins.historical_features.historical_rows import add_known_features

    current = settings()
    views = find_views(current, names)
    rows = _read_spine(current, spine, views, timestamp)
    with StageProgress() as progress:
        progress.update(f"features of {len(rows):,} rows")
        needs_spark = find_spark_functions(views) + [f"the live view {view.name!r}" for view in views if view.live]
        engine = decide_engine(current, needs_spark=needs_spark, rows=len(rows))
        engine.report({}, progress.update, about="features")
        add = _add_in_spark if engine.name == "spark" else add_known_features
        age = None if max_age is None else timedelta(days=max_age)
        known = add(current, views, rows, timestamp=timestamp, max_age=age, progress=progress.update)
    _write_rows(current, out, known)
    show(
        {"rows": known.num_rows, "columns": known.column_names, "out": out},
        f"{known.num_rows:,} rows with {known.num_columns - rows.num_columns} features in {out}.",
    )


def _add_in_spark(current: "Settings", views: "Sequence[FeatureView]", rows: "pa.Table", **more: Any) -> "pa.Table":
    """As `add_known_features`, by Spark."""
    from forecache.kit.spark.session import spark_session
    from forecache.plugins.historical_features.historical import ROW, historical_features

    frame = spark_session(current).createDataFrame(rows.append_column(ROW, _row_numbers(len(rows))))
    found = historical_features(frame.sparkSession, current, views, frame, **more)
    return collect_rows(found).sort_by(ROW).drop_columns([ROW])


def collect_rows(frame: "DataFrame") -> "pa.Table":
    """Collect the rows of a frame."""
    from forecache.kit.delta.errors import as_refusal

    try:
        return frame.toArrow()
    except Exception as error:
        known = as_refusal(error)
        if known is None:
            raise
        raise known from error


def find_views(current: "Settings", names: Sequence[str]) -> "list[FeatureView]":
    """The feature views of pipelines and views by name, each once."""
    from forecache.base.table_names import unknown_name_error
    from forecache.declare.loading import read_project

    project = read_project(current)
    users: dict[str, Pipeline | Realtime] = {**project.pipelines, **project.realtime}
    known = project.views | {view.name: view for each in users.values() for view in each.views}
    found: dict[str, FeatureView] = {}
    for name in names:
        if name not in users and name not in known:
            kinds, there = "pipeline, real-time model or feature view", sorted({*users, *known})
            raise unknown_name_error(name, kinds, there, where=current.project)
        views = users[name].views if name in users else (known[name],)
        found |= {view.name: view for view in views}
    return list(found.values())


def _read_spine(current: "Settings", spine: str, views: "Sequence[FeatureView]", timestamp: str) -> "pa.Table":
    """Read the spine; in a CSV file keys get the declared types, and times are in UTC."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from forecache.declare.sources.column import key_types
    from forecache.kit.delta.dataset import open_dataset
    from forecache.kit.delta.tables import open_existing

    kinds = {name: kind for view in views for name, kind in key_types(view.key, view.sources).items()}
    arrow: dict[str, Any] = {"string": pa.string(), "int": pa.int32(), "bigint": pa.int64(), "date": pa.date32()}
    try:
        if spine.endswith(".parquet"):
            return pq.read_table(spine)
        if spine.endswith(".csv"):
            return _read_csv(spine, timestamp, {name: arrow[kind] for name, kind in kinds.items()})
        return open_dataset(open_existing(current, spine, what="The spine")).to_table()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"The spine {spine!r} cannot be read: {str(error).splitlines()[0]}.") from error


def _read_csv(spine: str, timestamp: str, keys: dict[str, Any]) -> "pa.Table":
    """Read a CSV file whose times all have a time zone, or all have none and are in UTC."""
    import pyarrow as pa
    import pyarrow.csv as pc

    def read(zone: str | None) -> pa.Table:
        types = {**keys, timestamp: pa.timestamp("us", tz=zone)}
        return pc.read_csv(spine, convert_options=pc.ConvertOptions(column_types=types))

    try:
        return read("UTC")
    except pa.ArrowInvalid:
        rows = read(None)
        place = rows.column_names.index(timestamp)
        return rows.set_column(place, timestamp, rows[timestamp].cast(pa.timestamp("us", tz="UTC")))


def _write_rows(current: "Settings", out: str, rows: "pa.Table") -> None:
    """Write a file atomically, or replace the rows of a Delta table."""
    import pyarrow.csv as pc
    import pyarrow.parquet as pq

    if not out.endswith((".parquet", ".csv")):
        from deltalake import write_deltalake

        options = current.storage_options if "://" in out else None
        write_deltalake(out, rows, mode="overwrite", schema_mode="overwrite", storage_options=options)
        return
    path = Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    (pq.write_table if path.suffix == ".parquet" else pc.write_csv)(rows, part)
    part.replace(path)


def _row_numbers(rows: int) -> "pa.Array":
    import numpy as np
    import pyarrow as pa

    return pa.array(np.arange(rows))
