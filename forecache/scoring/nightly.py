"""Scoring as the nightly does it: the champion and, where the declaration asks for it, a challenger beside it."""

import dataclasses
from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

from forecache.pipeline import Pipeline
from forecache.registry.challenger import find_challenger
from forecache.results import Progress, StageResult, no_progress
from forecache.scoring.challenger.shadow import score_shadow
from forecache.scoring.cost_estimate import plans_together
from forecache.scoring.run import score
from forecache.settings import Settings

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
    """Score nights with the champion and, where there is a challenger, with that too.

    A challenger that cannot be scored, or whose predictions are wrong, holds nothing up: its error stands where its
    comparison would. With `rebuild`, nights that are current are scored too.

    Returns:
        What `forecache.scoring.run.score` does, with `predicted` and `actual` of all that was scored here, by both
        models; `details["challenger"]` has the challenger's `model`, `table` and, by night (ISO), either `rows` and the
        `comparison` of `score_shadow` or the `error`. It is missing where nobody challenges the champion.

    Raises:
        NotFoundError, InputError, CheckError, ConflictError: As `score`.
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
            **plans_together(settings, [result, *shadows]),
            "challenger": {
                "model": f"{challenger.name}@{challenger.version}",
                "table": pipeline.challenger_table,
                "nights": outcomes,
            },
        },
    )
