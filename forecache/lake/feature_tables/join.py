"""Joins the views of a pipeline: the rows of its entities, each with the features of every view by its key."""

from collections.abc import Mapping, Sequence
from datetime import date
from functools import reduce
from typing import TYPE_CHECKING

from forecache.base.errors import InputError
from forecache.base.settings import Settings
from forecache.declare import AS_OF, FeatureView, Pipeline
from forecache.kit.delta.tables import read_table
from forecache.lake.contracts import function_name
from forecache.lake.sources.point_in_time import known_rows
from forecache.lake.sources.tables.pins import Pins

_WHOLE, _WHOLE_TYPES = "whole number", ("tinyint", "smallint", "int", "bigint")

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


def join_views(
    spark: "SparkSession",
    settings: Settings,
    pipeline: Pipeline,
    nights: Sequence[date],
    frames: Mapping[str, "DataFrame"],
    *,
    pins: Pins | None = None,
) -> "DataFrame":
    """Key columns, `as_of` and the features of all views; null for a view without a row for the entity.

    Args:
        frames: By name of the view, its key columns, `as_of` and features on these nights.
    """
    joined = _entity_frame(spark, settings, pipeline, nights, frames, pins)
    for view in pipeline.views:
        require_key_types(f"The entities of pipeline {pipeline.name!r} have", joined, view, frames[view.name])
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
    computed = declared.compute(known_rows(spark, settings, declared.sources, nights, pins=pins))
    wanted = [*pipeline.key, AS_OF, *declared.columns]
    missing = [name for name in wanted if name not in computed.columns]
    if missing:
        raise InputError(
            f"The entities of pipeline {pipeline.name!r} lack the column {missing[0]!r}.",
            remedy=f"Return it from {function_name(declared.compute)}, or remove it from the declaration.",
        )
    return computed.select(*wanted)


def require_key_types(owner: str, given: "DataFrame", view: FeatureView, features: "DataFrame") -> None:
    """Refuse a key column whose type differs in kind from the view's, such as text and number."""
    here, there = dict(given.dtypes), dict(features.dtypes)
    for name in view.key:
        kinds = {_WHOLE if kind in _WHOLE_TYPES else kind for kind in (here[name], there[name])} - {"void"}
        if len(kinds) > 1:
            raise InputError(
                f"{owner} {name!r} as {here[name]}, and the view {view.name!r} as {there[name]}.",
                remedy="Cast it: rows of different types are not joined.",
            )


def read_view(
    spark: "SparkSession", settings: Settings, view: FeatureView, versions: Mapping[date, int], *, states: bool = False
) -> "DataFrame":
    """Key columns, `as_of`, features, and states of a live view if wanted, of a view's table.

    Args:
        versions: By night, the Delta version that wrote its partition.
    """
    from pyspark.sql import functions as F

    parts = []
    for version in sorted(set(versions.values())):
        nights = [night for night, wrote in versions.items() if wrote == version]
        parts.append(read_table(spark, settings, view.feature_table, version=version).where(F.col(AS_OF).isin(nights)))
    rows = reduce(lambda one, other: one.unionByName(other, allowMissingColumns=True), parts)
    return rows.select(*view.key, AS_OF, *view.feature_names, *(view.live_states if states else ()))
