"""Published: the version of the precompute store that the reader answers from, verified before it becomes current.

It holds the newest as-of date of a prediction table, or of a view's features, that passed its checks.
The verdict in the lake decides, because Dagster records a partition as materialized even if a check failed.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import dagster as dg

from assets.metadata import details_json, place_in_graph, stage_metadata
from assets.partitions import nightly_freshness
from assets.stage import RunStep, explain_errors
from forecache.declare import Served
from resources.settings_resource import SettingsResource


def published_name(pipeline: Served) -> str:
    return f"published_{pipeline.name}"


def build_published(
    pipeline: Served,
    *,
    after: Sequence[str] = (),
    require: Callable[[dg.AssetExecutionContext], None] = lambda context: None,
) -> dg.AssetsDefinition:
    """The current store version of a pipeline or a feature view.

    Args:
        after: Assets whose step also builds the table, so that they run first.
        require: Fails the run after publishing, for what may not keep the version from being published.
    """

    @dg.asset(
        name=published_name(pipeline),
        deps=[pipeline.served_table, *after],
        description=__doc__,
        **place_in_graph(pipeline, stage="serving"),
        pool=published_name(pipeline),
        kinds={pipeline.publishing.backend, "http"},
        freshness_policy=nightly_freshness(pipeline),
    )
    @explain_errors
    def publish_newest_night(context: dg.AssetExecutionContext, settings: SettingsResource) -> Iterator[Any]:
        from forecache.operations.publish_night import publish_newest_night

        step = RunStep(context, settings.load())
        result = step.run_stage(publish_newest_night, step.settings, pipeline)
        metadata = {**stage_metadata(step.settings, result), "details": details_json(result)}
        yield dg.MaterializeResult(metadata=metadata)
        require(context)

    return publish_newest_night
