"""Shadow scoring: a night scored with the champion and with a challenger, each into its own table, and compared.

The challenger's table has the prediction table's columns and contracts; nothing publishes from it.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from typing import TYPE_CHECKING, Any

from forecache.base.results import Progress, StageResult, no_progress
from forecache.base.settings import Settings
from forecache.declare import Pipeline
from forecache.lake.ledger import last_record
from forecache.lake.stage import hold_table_lock
from forecache.models.registry.versions.model_versions import ModelVersion, champion
from forecache.scoring.challenger.compare import compare
from forecache.scoring.cost_estimate import combine_plans
from forecache.scoring.night_inputs import STAGE
from forecache.scoring.run import score_stale
from forecache.scoring.run_context import ScoringRun

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

SHADOW_STAGE = "score_challenger"


def score_shadow(
    spark: "SparkSession",
    settings: Settings,
    pipeline: Pipeline,
    night: date,
    challenger: ModelVersion,
    *,
    run_id: str = "",
    progress: Progress = no_progress,
    rebuild: bool = False,
) -> StageResult:
    """Score a night with a challenger, and with the champion if that has not been done, and compare them.

    Predictions that an earlier run committed from the same inputs before it was killed are only recorded.

    Args:
        rebuild: Score the night with the challenger again, also if it is current.

    Returns:
        A result about the challenger's table; `details` are those of `forecache.scoring.run.score`, with `predicted`
        and `actual` of both models together. They also name both models (`champion`, `challenger`), say whether the
        champion's partition was written (`champion_written`), and have the `comparison` of
        `forecache.scoring.challenger.compare.compare`.

    Raises:
        NotFoundError: There is no champion, or the night has no features.
        CheckError: The predictions of either model are wrong; its table stays as it was.
    """
    with (
        hold_table_lock(settings, pipeline.prediction_table, run_id, progress),
        hold_table_lock(settings, pipeline.challenger_table, run_id, progress),
    ):
        first = ScoringRun(
            spark=spark,
            settings=settings,
            pipeline=pipeline,
            model=champion(settings, pipeline),
            table=pipeline.prediction_table,
            stage=STAGE,
            engine="spark",
            run_id=run_id,
            progress=progress,
        )
        models = {side: f"{m.name}@{m.version}" for side, m in (("champion", first.model), ("challenger", challenger))}

        def compare_night(night: date) -> Mapping[str, Any]:
            progress(f"comparing the predictions for {night}", None)
            return {**models, "comparison": compare(settings, pipeline, night)}

        second = replace(
            first,
            model=challenger,
            table=pipeline.challenger_table,
            stage=SHADOW_STAGE,
            compared_with=models["champion"],
            details=compare_night,
        )
        by_champion = score_stale(first, [night], mode="auto", rebuild=())
        result = score_stale(second, [night], mode="full", rebuild=[night] if rebuild else ())
    record = last_record(settings, SHADOW_STAGE, pipeline.name, night)
    assert record is not None
    details = {
        **result.details,
        **models,
        "champion_written": not by_champion.skipped,
        "comparison": record.details["comparison"],
        **combine_plans(settings, [by_champion, result]),
    }
    return replace(result, details=details)
