"""Published: the version of the precompute store that the reader answers from, verified before it goes live.

It holds the newest night of the prediction table, and only if that night passed its checks: Dagster records a
partition as materialized even where a check failed, so the verdict in the lake decides.
"""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from assets.freshness import nightly_freshness
from assets.metadata import details_json, stage_metadata
from assets.stage import explained, run_stage
from forecache.pipeline import Pipeline
from forecache.results import Progress, StageResult
from forecache.settings import Settings
from resources.settings import SettingsResource


def published_name(pipeline: Pipeline) -> str:
    return f"published_{pipeline.name}"


def build_published(pipeline: Pipeline) -> dg.AssetsDefinition:
    """The current store version of a pipeline."""

    @dg.asset(
        name=published_name(pipeline),
        deps=[pipeline.prediction_table],
        description=__doc__,
        group_name="serving",
        kinds={pipeline.publish.backend, "http"},
        owners=[pipeline.owner],
        freshness_policy=nightly_freshness(pipeline.end),
    )
    @explained
    def published(context: dg.AssetExecutionContext, settings: SettingsResource) -> Iterator[Any]:
        current = settings.load()
        result = run_stage(context, lambda progress: _publish_newest(current, pipeline, context.run_id, progress))
        metadata = {**stage_metadata(current, result), "details": details_json(result)}
        yield dg.MaterializeResult(metadata=metadata)

    return published


def _publish_newest(settings: Settings, pipeline: Pipeline, run_id: str, progress: Progress) -> StageResult:
    from forecache.lake.ledger import last_records
    from forecache.operations.publish import publish_night

    scored = [night for night in last_records(settings, "score", pipeline.name) if night]
    newest = max(scored, default=None)
    return publish_night(settings, pipeline, night=newest, run_id=run_id, progress=progress)
