"""Scoring by the nightly run: with the champion and, if it is declared, with a challenger."""

import dataclasses
from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

from forecache.base.results import Progress, StageResult, no_progress
from forecache.base.settings import Settings
from forecache.declare import Pipeline
from forecache.models.registry.challenger import find_challenger
from forecache.scoring.challenger.shadow import score_shadow
from forecache.scoring.cost_estimate import combine_plans
from forecache.scoring.run import score

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def score_nights(
    spark: "SparkSession",
    settings: Settings,
    pipeline: Pipeline,
    nights: Sequence[date],
    *,
    run_id: str = "",
    progress: Progress = no_progress,
    rebuild: bool = False,
) -> StageResult:
    """Score nights with the champion and with the challenger, if there is one; raises as `score`.

    An error of the challenger does not stop the run: it is recorded in place of the comparison. With `rebuild`, nights
    that are current are scored, too.

    Returns:
        The result of `forecache.scoring.run.score`, with `predicted` and `actual` of both models together;
        `details["challenger"]` has the challenger's `model`, `table` and, by night (ISO), either `rows` and the
        `comparison` of `score_shadow` or the `error`. It is missing without a challenger.
    """
    result = score(spark, settings, pipeline, nights, run_id=run_id, progress=progress, rebuild=rebuild)
    challenger = find_challenger(settings, pipeline) if pipeline.shadow else None
    if challenger is None:
        return result
    shadows: list[StageResult] = []
    outcomes: dict[str, dict[str, Any]] = {}
    for night in sorted(set(nights)):
        try:
            shadow = score_shadow(
                spark, settings, pipeline, night, challenger, run_id=run_id, progress=progress, rebuild=rebuild
            )
        except Exception as error:  # noqa: BLE001  (whatever is wrong with a challenger, the champion is scored)
            outcomes[night.isoformat()] = {"error": (str(error).strip().splitlines() or [type(error).__name__])[0]}
        else:
            shadows.append(shadow)
            outcomes[night.isoformat()] = {"rows": shadow.rows, "comparison": shadow.details["comparison"]}
    return dataclasses.replace(
        result,
        details={
            **result.details,
            **combine_plans(settings, [result, *shadows]),
            "challenger": {
                "model": f"{challenger.name}@{challenger.version}",
                "table": pipeline.challenger_table,
                "nights": outcomes,
            },
        },
    )
