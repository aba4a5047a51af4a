"""Point-in-time look-ups for past requests: the features of each view at the time of the request."""

from typing import TYPE_CHECKING

from forecache.base.results import Progress, no_progress
from forecache.base.settings import Settings
from forecache.base.table_names import EVENT_TIMESTAMP
from forecache.declare import AS_OF, FeatureView, Lookup, Realtime
from forecache.lake.feature_tables.historical import age_s, visible_date
from forecache.lake.feature_tables.live_features import live_features
from forecache.lake.feature_tables.night_features import load_night_features
from forecache.lake.sources.tables.pins import Pins

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

_SEEN, _KEY = "forecache_seen", "forecache_key_"


def matrix_column(lookup: str) -> str:
    """Name of the column with the features of a look-up."""
    return f"forecache_view_{lookup}"


def look_up(
    spark: "SparkSession",
    settings: Settings,
    realtime: Realtime,
    requests: "DataFrame",
    *,
    pins: Pins | None = None,
    progress: Progress = no_progress,
) -> "DataFrame":
    """The rows of requests with a column for each look-up: an array of float in the order of `Lookup.columns`, NaN for
    a feature that is null; null if the view has no row of the key, or one older than `Lookup.max_age_h`.

    A request sees the as-of date that had ended, and was published, when it was made; after the end of a view's data,
    its last. Of a live view it sees all events before the moment at which it was made, whatever was published.
    """
    for lookup in realtime.lookups:
        if lookup.view.live is not None:
            requests = live_features(
                spark,
                settings,
                lookup.view,
                requests,
                by=lookup.by,
                timestamp=EVENT_TIMESTAMP,
                column=matrix_column(lookup.called),
                pins=pins,
                progress=progress,
            )
            continue
        seen = visible_date(EVENT_TIMESTAMP, lookup.view, published_h=realtime.trained_examples.published_h)
        requests = _join_features(spark, settings, lookup, requests, seen, pins, progress)
    return requests


def _join_features(
    spark: "SparkSession",
    settings: Settings,
    lookup: Lookup,
    requests: "DataFrame",
    seen: "Column",
    pins: Pins | None,
    progress: Progress,
) -> "DataFrame":
    from pyspark.sql import functions as F

    view, column, names = lookup.view, matrix_column(lookup.called), requests.columns
    nights = sorted(row[0] for row in requests.select(seen).distinct().collect() if row[0] is not None)
    if not nights:
        return requests.withColumn(column, F.lit(None).cast("array<float>"))
    keys = [f"{_KEY}{place}" for place in range(len(view.key))]
    by = [F.col(f"`{name}`").alias(key) for name, key in zip(lookup.by, view.key, strict=True)]
    rows = requests.select(*by, seen.alias(AS_OF))
    known = load_night_features(spark, settings, view, nights, asked=rows, pins=pins, progress=progress).select(
        *(F.col(name).alias(key) for name, key in zip(view.key, keys, strict=True)),
        F.col(AS_OF).alias(_SEEN),
        _served_array(view).alias(column),
    )
    asked = requests.withColumn("forecache_asked", seen)
    same = [asked[f"`{name}`"] == known[key] for name, key in zip(lookup.by, keys, strict=True)]
    joined = asked.join(known, [asked["forecache_asked"] == known[_SEEN], *same], "left")
    found = F.col(column)
    if lookup.max_age_h is not None:
        found = F.when(age_s(EVENT_TIMESTAMP, _SEEN) <= 3600 * lookup.max_age_h, found)
    return joined.select(*(f"`{name}`" for name in names), found.alias(column))


def _served_array(view: FeatureView) -> "Column":
    """The features of a view's row as they are served: an array of float, NaN for null."""
    from pyspark.sql import functions as F

    unknown = F.lit(float("nan")).cast("float")
    parts = []
    for feature in view.served_features:
        if feature.size:
            numbers = F.transform(F.col(feature.name).cast("array<float>"), lambda number: F.coalesce(number, unknown))
            parts.append(F.coalesce(numbers, F.array_repeat(unknown, feature.size)))
        else:
            parts.append(F.array(F.coalesce(F.col(feature.name).cast("float"), unknown)))
    return F.concat(*parts)
