"""Scoring as the nightly does it: the champion and, where the declaration asks for it, a challenger beside it."""

import dataclasses
from collections.abc import Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

from forecache.lake.ledger import StageRecord, last_records
from forecache.pipeline import Pipeline
from forecache.registry.challenger import find_challenger
from forecache.registry.versions.models import ModelVersion
from forecache.results import Progress, StageResult, no_progress
from forecache.scoring.challenger.shadow import score_shadow
from forecache.scoring.cost_estimate import Figures, together
from forecache.scoring.night import STAGE
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
    """Score nights with the champion; where there is a challenger, each night with both in one scan of its features.

    A challenger that cannot be scored, or whose predictions are wrong, holds nothing up: that is said in its place.
    With `rebuild`, nights that are current are scored too.

    Returns:
        What `forecache.scoring.run.score` does, with `predicted` and `actual` of all that was scored here, by both
        models; `details["challenger"]` has the challenger's `model`, `table` and, by night (ISO), either `rows` and the
        `comparison` of `score_shadow` or the `error`. It is missing where nobody challenges the champion.

    Raises:
        NotFoundError, InputError, CheckError: As `score`.
    """
    challenger = find_challenger(settings, pipeline) if pipeline.shadow else None
    if challenger is None:
        return score(spark, settings, pipeline, nights, run_id=run_id, progress=progress, rebuild=rebuild)
    before = last_records(settings, STAGE, pipeline.name)
    shadows: dict[date, StageResult] = {}
    errors: dict[date, str] = {}
    for night in sorted(set(nights)):
        try:
            shadows[night] = score_shadow(
                spark, settings, pipeline, night, challenger, run_id=run_id, progress=progress, rebuild=rebuild
            )
        except Exception as error:  # noqa: BLE001  (whatever is wrong with a challenger, the champion is scored)
            errors[night] = (str(error).strip().splitlines() or [type(error).__name__])[0]
    # Also where the challenger then failed: the champion's rows come first.
    after = last_records(settings, STAGE, pipeline.name)
    written = [after[night] for night in sorted(set(nights)) if after.get(night) != before.get(night)]
    left = set(errors) - {row.night for row in written} if rebuild else set()
    result = score(spark, settings, pipeline, nights, run_id=run_id, progress=progress, rebuild=left)
    result = _with_challenger(result, pipeline, challenger, written, shadows, errors)
    runs = [run for run in shadows.values() if not run.skipped]
    return (
        dataclasses.replace(result, details={**result.details, **_plan(settings, [*runs, result])}) if runs else result
    )


def _plan(settings: Settings, runs: Sequence[StageResult]) -> dict[str, Any]:
    """What runs one after the other were to take, None where that of one is not known, and what they took."""
    found: dict[str, Any] = {}
    for side in ("predicted", "actual"):
        parts = [run.details[side] for run in runs if run.details.get("actual")]
        whole = together([Figures.of(part) if part else None for part in parts])
        found[side] = whole.metadata(settings) if whole else None
    return found


def _with_challenger(
    result: StageResult,
    pipeline: Pipeline,
    challenger: ModelVersion,
    written: Sequence[StageRecord],
    shadows: Mapping[date, StageResult],
    errors: Mapping[date, str],
) -> StageResult:
    """The champion's result, to which the nights belong that were scored together with the challenger's."""
    details: dict[str, Any] = {**result.details}
    seconds = sum(row.seconds for row in written)
    if written:
        rows = sum(row.rows for row in written)
        details["scored"] = sorted([*details["scored"], *(str(row.night) for row in written)])
        details["scored_rows"] = details.get("scored_rows", 0) + rows
        details["rows_per_second"] = round(rows / seconds) if seconds else 0
    found = {night: {"rows": s.rows, "comparison": s.details["comparison"]} for night, s in shadows.items()}
    told = {**found, **{night: {"error": reason} for night, reason in errors.items()}}
    details["challenger"] = {
        "model": f"{challenger.name}@{challenger.version}",
        "table": pipeline.challenger_table,
        "nights": {night.isoformat(): told[night] for night in sorted(told)},
    }
    return dataclasses.replace(
        result, skipped=result.skipped and not written, seconds=result.seconds + seconds, details=details
    )
