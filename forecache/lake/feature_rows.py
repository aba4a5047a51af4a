"""The features of nights as Spark frames, of a view or joined for a pipeline, and the inputs that they depend on."""

from collections.abc import Mapping, Sequence
from datetime import date
from functools import reduce
from typing import TYPE_CHECKING

import pyarrow as pa

from forecache.base.errors import InputError
from forecache.base.plugins import load_hook
from forecache.base.results import Progress, no_progress
from forecache.base.settings import Settings
from forecache.declare import AS_OF, Feature, FeatureView, Pipeline
from forecache.kit.delta.errors import REFUSED
from forecache.kit.delta.tables import read_table
from forecache.lake.contracts import function_name, require_columns, require_key_types
from forecache.lake.sources import Pins, known_rows, source_states
from forecache.lake.sql_rows import entity_query_frame, view_query_frame
from forecache.lake.stored_features import embed_texts

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession


def join_views(
    spark: "SparkSession",
    settings: Settings,
    pipeline: Pipeline,
    nights: Sequence[date],
    frames: Mapping[str, "DataFrame"],
    *,
    pins: Pins | None = None,
) -> "DataFrame":
    """Key columns, `as_of` and the features of all views, from a frame for each; null for a view without the entity."""
    joined = _entity_frame(spark, settings, pipeline, nights, frames, pins)
    owner = f"The entities of pipeline {pipeline.name!r} have"
    for view in pipeline.views:
        require_key_types(owner, dict(joined.dtypes), dict(frames[view.name].dtypes), view)
        joined = joined.join(frames[view.name], [*view.key, AS_OF], "left")
    return joined.select(*pipeline.key, AS_OF, *pipeline.feature_names)


def _entity_frame(
    spark: "SparkSession",
    settings: Settings,
    pipeline: Pipeline,
    nights: Sequence[date],
    frames: Mapping[str, "DataFrame"],
    pins: Pins | None,
) -> "DataFrame":
    declared = pipeline.entities
    if declared is None:
        view = next(view for view in pipeline.views if view.key == pipeline.key)
        return frames[view.name].select(*pipeline.key, AS_OF)
    if declared.compute is None:
        computed = entity_query_frame(spark, settings, pipeline, nights, pins=pins)
    else:
        computed = declared.compute(known_rows(spark, settings, declared.sources, nights, pins=pins))
    wanted = [*pipeline.key, AS_OF, *declared.columns]
    missing = [name for name in wanted if name not in computed.columns]
    if missing:
        raise InputError(
            f"The entities of pipeline {pipeline.name!r} lack the column {missing[0]!r}.",
            remedy=f"Return it from {function_name(declared.computation)}, or remove it from the declaration.",
        )
    return computed.select(*wanted)


def read_view(
    spark: "SparkSession", settings: Settings, view: FeatureView, versions: Mapping[date, int], *, states: bool = False
) -> "DataFrame":
    """The rows of a view's table on nights, each at the Delta version that wrote it; with states if wanted."""
    from pyspark.sql import functions as F

    parts = []
    for version in sorted(set(versions.values())):
        nights = [night for night, wrote in versions.items() if wrote == version]
        parts.append(read_table(spark, settings, view.feature_table, version=version).where(F.col(AS_OF).isin(nights)))
    rows = reduce(lambda one, other: one.unionByName(other, allowMissingColumns=True), parts)
    return rows.select(*view.key, AS_OF, *view.feature_names, *(view.live_states if states else ()))


_WHOLE = ("tinyint", "smallint", "int", "bigint", "boolean")
_TAKEN = {
    "number": (*_WHOLE, "float", "double"),
    "integer": _WHOLE,
    "category": (*_WHOLE, "string", "date"),
    "text": ("string",),
    "vector": tuple(f"array<{kind}>" for kind in (*_WHOLE[:-1], "float", "double")),
}
_RULES = {
    "number": (
        "features are numbers",
        "Return a number from {0}: cast it, count it or encode it; or declare its type, such as 'category'.",
    ),
    "integer": ("it is declared as an integer", "Return a whole number from {0}, or declare a number."),
    "category": ("it is declared as a category", "Return a text, a whole number, a date or a boolean from {0}."),
    "text": ("it is declared as a text", "Return a string from {0}."),
    "vector": ("it is declared as a vector", "Return an array of numbers from {0}."),
}


def typed_columns(computed: "DataFrame", view: FeatureView) -> "list[Column]":
    """The declared features of a computed frame as Spark columns in their stored types; InputError if one is wrong."""
    function = view.features and view.features.computation
    require_columns(computed, view, view.feature_names, function, "feature")
    types = dict(computed.dtypes)
    for feature in view.feature_columns:
        kind = types[feature.name]
        if kind not in _TAKEN[feature.type] and not (feature.type == "number" and kind.startswith("decimal")):
            what, remedy = _RULES[feature.type]
            raise InputError(
                f"The feature {feature.name!r} of {view.name!r} is a {kind}; {what}.",
                remedy=remedy.format(function_name(function)),
            )
    return [_stored_column(feature, view.name) for feature in view.feature_columns]


def _stored_column(feature: Feature, owner: str) -> "Column":
    from pyspark.sql import functions as F

    column = F.col(feature.name)
    if feature.type == "category":
        return F.nullif(column.cast("string"), F.lit("")).alias(feature.name)
    if feature.type == "text":
        return _embed_column(feature, column, owner).alias(feature.name)
    if feature.type == "vector":
        wrong = F.concat(
            F.lit(f"{REFUSED} The vector {feature.name!r} of {owner!r} has a row of "),
            F.size(column).cast("string"),
            F.lit(f" numbers, and is declared with size={feature.size}."),
        )
        fits = column.isNull() | (F.size(column) == feature.size)
        column = F.when(fits, column).otherwise(F.raise_error(wrong))
    return column.cast(feature.spark_type).alias(feature.name)


def _embed_column(feature: Feature, column: "Column", owner: str) -> "Column":
    from pyspark.sql.pandas.functions import arrow_udf

    embed = embed_texts(feature, owner)

    # Spark infers the kind of UDF from the type hints.
    def vectors(texts: pa.Array) -> pa.Array:
        return embed(texts)

    return arrow_udf(vectors, "array<float>")(column)  # type: ignore[call-overload]


def feature_frame(
    spark: "SparkSession", settings: Settings, pipeline: Pipeline, nights: Sequence[date], *, pins: Pins | None = None
) -> "DataFrame":
    """Key columns, `as_of` and the features as float32, for every entity known on each night; see `view_frame`."""
    frames = {view.name: view_frame(spark, settings, view, nights, pins=pins) for view in pipeline.views}
    if pipeline.is_joined:
        return join_views(spark, settings, pipeline, nights, frames, pins=pins)
    return frames[pipeline.views[0].name]


def view_frame(
    spark: "SparkSession",
    settings: Settings,
    view: FeatureView,
    nights: Sequence[date],
    *,
    pins: Pins | None = None,
    progress: Progress = no_progress,
    asked: "pa.Table | None" = None,
    states: bool = False,
) -> "DataFrame":
    """Key columns, `as_of` and the features as float32, for every key known on each night; builds missing tiles.

    Args:
        pins: The existing tables as the run sees them; None: as they are now.
        asked: Key columns and `as_of` of the rows that are needed; windows are computed for these only.
        states: Include the states of a live view.
    """
    if view.features is None:
        window_frame = load_hook("window_features", "window_frame")
        computed = window_frame(settings, view, nights, progress=progress, asked=asked)
    elif view.statement is not None:
        computed = view_query_frame(spark, settings, view, nights, pins=pins)
    else:
        rows, compute = known_rows(spark, settings, view.sources, nights, pins=pins), view.features.compute
        computed = rows[view.sources[0].name] if compute is None else compute(rows)
    kept = view.live_states if states else ()
    return computed.select(*view.key, AS_OF, *typed_columns(computed, view), *kept)


def view_inputs(
    settings: Settings, view: FeatureView, nights: Sequence[date], *, pins: Pins | None = None
) -> dict[date, str]:
    """For each night, text of all that its features depend on: the state of the sources, and the declaration."""
    if view.windows:
        inputs: dict[date, str] = load_hook("window_features", "window_inputs")(settings, view, nights)
        return inputs
    states = source_states(settings, view.sources, nights, pins=pins)
    return {night: f"{states[night]} code={view.fingerprint}" for night in nights}


def code_of(inputs: str) -> str:
    """The view's fingerprint in a text of `view_inputs`; "" if it has none."""
    return inputs.partition(" code=")[2]


def joined_inputs(
    settings: Settings,
    pipeline: Pipeline,
    versions: Mapping[str, Mapping[date, int]],
    nights: Sequence[date],
    *,
    pins: Pins | None = None,
) -> dict[date, str]:
    """For each night, text of all that joined features depend on; `versions` are those of the views' partitions."""
    entities = source_states(settings, pipeline.entities.sources if pipeline.entities else (), nights, pins=pins)
    tables = {view.name: view.feature_table for view in pipeline.views}
    return {
        night: " ".join(
            [
                *(f"{table}@{versions[name][night]}" for name, table in tables.items()),
                entities[night],
                f"code={pipeline.fingerprints.features}",
            ]
        )
        for night in nights
    }


def visible_date(timestamp: str, view: FeatureView, *, published_h: float = 0.0) -> "Column":
    """The newest as-of date of a view that is visible at a timestamp, `published_h` after its end.

    Null before the first, and without a timestamp.
    """
    from pyspark.sql import functions as F

    micros = F.unix_micros(F.col(f"`{timestamp}`").cast("timestamp")) - F.lit(round(published_h * 3_600_000_000))
    # The day before that of the timestamp, UTC: a day ends where the next one begins.
    seen = F.date_sub(F.to_date(F.timestamp_micros(micros)), 1)
    last = F.when(seen > F.lit(view.end), F.lit(view.end)).otherwise(seen) if view.end else seen
    return F.when(last >= F.lit(view.start), last)


def age_s(timestamp: str, as_of: str = AS_OF) -> "Column":
    """Seconds from the end of an as-of date to a timestamp."""
    from pyspark.sql import functions as F

    ended = F.unix_seconds(F.date_add(as_of, 1).cast("timestamp"))
    return F.col(f"`{timestamp}`").cast("timestamp").cast("double") - ended
