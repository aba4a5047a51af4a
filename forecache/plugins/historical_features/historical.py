"""Point-in-time join: the features of views at the timestamps of any table of keys."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from forecache.base.errors import InputError
from forecache.base.results import Progress, no_progress
from forecache.base.settings import Settings
from forecache.declare import AS_OF, FeatureView
from forecache.kit.delta.tables import read_table
from forecache.lake.contracts import require_key_types
from forecache.lake.feature_rows import age_s, visible_date
from forecache.plugins.historical_features.live_features import live_features
from forecache.plugins.historical_features.night_features import load_night_features

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_ROWS = "forecache_rows"
OWNER = "The table to be given features has"
ROW = "forecache_row"
"""A column by which a caller restores the order of the rows."""


def historical_features(
    spark: "SparkSession",
    settings: Settings,
    views: Sequence[FeatureView],
    spine: "DataFrame",
    *,
    timestamp: str = "event_timestamp",
    max_age: timedelta | None = None,
    progress: Progress = no_progress,
) -> "DataFrame":
    """The rows of a table, each with the features of its keys as they were known at its timestamp.

    A row sees the as-of date that ended at or before its timestamp: one of 2026-01-03 00:00 UTC or later on that day
    sees 2026-01-02; after the end of a view's data, its last as-of date. Of a live view it sees the events strictly
    before its timestamp. Features of as-of dates that are current are read from the view's table, the others computed,
    for exactly the dates that the rows need; nothing is written but tiles.

    Args:
        spine: The key columns of all views, and a timestamp or date; other columns are kept. Its rows may repeat.
        timestamp: The name of that column. If it is null, so are the features.
        max_age: Features older than this at the timestamp are null; it does not apply to live views.

    Returns:
        All rows and columns of the spine, in no order, and the features (float32); null for a key without a row on
        its date and for timestamps before the view's first as-of date.

    Raises:
        InputError: The spine lacks a column, has a key of another type, or a column named like a feature; or a date
            that is needed has no delivery. If a view has several rows of a key, reading the result fails, and
            `forecache.kit.delta.errors.as_refusal` finds the message in Spark's error.
    """
    from pyspark.sql import functions as F

    require_fitting_columns(views, dict(spine.dtypes), timestamp)
    result = spine
    for view in views:
        if view.live is not None:
            result = _join_live_features(spark, settings, view, result, timestamp, progress)
            continue
        seen = visible_date(timestamp, view)
        dated = result.withColumn(AS_OF, seen)
        nights = sorted(row[0] for row in spine.select(seen).distinct().collect() if row[0] is not None)
        if not nights:
            empty = {f.name: F.lit(None).cast(f.spark_type) for f in view.feature_columns}
            result = result.withColumns(empty)
            continue
        asked = dated.select(*(f"`{name}`" for name in view.key), AS_OF)
        features = load_night_features(spark, settings, view, nights, asked=asked, progress=progress)
        require_key_types(OWNER, dict(spine.dtypes), dict(features.dtypes), view)
        joined = dated.join(features, [*view.key, AS_OF], "left")
        if max_age is not None:
            fresh = age_s(timestamp) <= max_age.total_seconds()
            joined = joined.withColumns({name: F.when(fresh, F.col(name)) for name in view.feature_names})
        result = joined.select(*(f"`{name.replace('`', '``')}`" for name in result.columns), *view.feature_names)
    return result


def _join_live_features(
    spark: "SparkSession", settings: Settings, view: FeatureView, rows: "DataFrame", timestamp: str, progress: Progress
) -> "DataFrame":
    from pyspark.sql import functions as F

    raw = read_table(spark, settings, view.event_source.raw_table)
    require_key_types(OWNER, dict(rows.dtypes), dict(raw.dtypes), view)
    names = [f"`{name.replace('`', '``')}`" for name in rows.columns]
    seen = live_features(
        spark, settings, view, rows, by=view.key, timestamp=timestamp, column=_ROWS, progress=progress
    )  # fmt: skip
    numbers = [F.nanvl(F.col(_ROWS)[place], F.lit(None).cast("float")) for place in range(len(view.served_columns))]
    return seen.select(*names, *(each.alias(name) for name, each in zip(view.served_columns, numbers, strict=True)))


def require_fitting_columns(views: Sequence[FeatureView], types: Mapping[str, str], timestamp: str) -> None:
    """Refuse a table, given its types by column as Spark names them, that lacks a column or has one of a feature."""
    for name in (timestamp, *(name for view in views for name in view.key)):
        if name not in types:
            raise InputError(
                f"The table to be given features has no column {name!r}.",
                remedy=f"It has {', '.join(name for name in types if name != ROW)}; name its time with `timestamp`.",
            )
    if types[timestamp] not in ("timestamp", "timestamp_ntz", "date"):
        raise InputError(
            f"The column {timestamp!r} of the table to be given features is a {types[timestamp]}.",
            remedy="Give a timestamp or a date.",
        )
    names = [AS_OF, *(name for view in views for name in view.feature_names)]
    there = {name.lower() for name in types}  # Spark's names have no case
    for name in names:
        if name.lower() in there or names.count(name) > 1:
            raise InputError(
                f"The column {name!r} would be twice in the result: as a column of the table and of a view, or of two "
                "views.",
                remedy="Rename the one of the table, or ask for the views one by one.",
            )
