"""Challenger: scores of a second model for the same as-of dates as the champion's. They are never published."""

import dagster as dg

from assets.metadata import owners_of, prediction_schema
from assets.partitions import pipeline_partitions
from forecache.declare import Pipeline


def build_challenger(pipeline: Pipeline) -> dg.AssetSpec:
    """The challenger's table; the asset of the prediction table writes it if a version has the alias `challenger`."""
    return dg.AssetSpec(
        pipeline.challenger_table,
        deps=[pipeline.feature_table],
        description=__doc__,
        group_name="predictions",
        kinds={"deltalake", "spark"},
        owners=owners_of(pipeline),
        metadata={"dagster/column_schema": prediction_schema(pipeline)},
        partitions_def=pipeline_partitions(pipeline),
    )
