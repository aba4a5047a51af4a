"""Shadow scoring: champion and challenger in one scan of the features, each into its own table, compared.

The challenger's table has the prediction table's columns and contracts; nothing publishes from it.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime, timezone
from typing import TYPE_CHECKING, Any

from forecache.inference.choose_runtime import Plan, plan_scoring
from forecache.lake.delta.partitions import Writer, find_committed, look
from forecache.lake.delta.tables import read_table, table_version
from forecache.lake.ledger import StageRecord, last_record, last_records
from forecache.lake.turn import own_turn
from forecache.pipeline import AS_OF, Pipeline
from forecache.registry.versions.models import ModelVersion, champion, verified_folder
from forecache.results import Progress, StageResult, no_progress
from forecache.scoring.challenger.spark_frames import cut, number, own_session, read_features, stamped, write_rows
from forecache.scoring.cost_estimate import Figures, predict, sentence
from forecache.scoring.night import STAGE, Night, describe_nights
from forecache.scoring.partitions.shards import BATCH_ROWS, Staged, Work, publish, record_committed
from forecache.scoring.partitions.staged_files import list_folder, staging_folder
from forecache.scoring.run import is_current
from forecache.scoring.tasks.job import model_features
from forecache.scoring.tasks.prediction_rows import Stamp
from forecache.scoring.udf import paired_udf
from forecache.settings import Settings
from forecache.statistics import bin_of, distance

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

SHADOW_STAGE = "score_challenger"
_STAGES = {"champion": STAGE, "challenger": SHADOW_STAGE}
_MODE = "shadow"
_BINS = 20


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
    """Score a night with the champion and with a challenger, reading its features once.

    The champion's partition is written only where it is not current already; where both are, nothing is done. What an
    earlier run committed from the same inputs, and was killed before it could record it, is recorded. With `rebuild`
    both are written in any case.

    Returns:
        A result about the challenger's table; `details` names both models, says whether the champion's partition was
        written (`champion_written`), and has the `comparison`: rows, mean_difference (challenger minus champion),
        mean_absolute_difference, largest_difference, correlation (None where a side is constant), psi, js, and for
        each segment the rows that change it. Where the night was scored, also `predicted` and `actual` of both models
        together (see `forecache.scoring.cost_estimate`; predicted is None before a first such night).

    Raises:
        NotFoundError: There is no champion, or the night has no features.
        CheckError: The predictions of either model are wrong; its table stays as it was.
    """
    with (
        own_turn(settings, pipeline.prediction_table, run_id, progress),
        own_turn(settings, pipeline.challenger_table, run_id, progress),
    ):
        return _score_both(spark, settings, pipeline, night, challenger, run_id, progress, rebuild)


def _score_both(
    spark: "SparkSession",
    settings: Settings,
    pipeline: Pipeline,
    night: date,
    challenger: ModelVersion,
    run_id: str,
    progress: Progress,
    rebuild: bool,
) -> StageResult:
    started = time.perf_counter()
    first = champion(settings, pipeline)
    sides = {"champion": (first, pipeline.prediction_table), "challenger": (challenger, pipeline.challenger_table)}
    seen = {side: look(settings, table, AS_OF) for side, (_, table) in sides.items()}
    models = {side: f"{model.name}@{model.version}" for side, (model, _) in sides.items()}
    nights: dict[str, Night] = {}
    current: dict[str, bool] = {}
    for side, (model, _) in sides.items():
        before = last_records(settings, _STAGES[side], pipeline.name)
        nights[side] = describe_nights(settings, pipeline, model, [night], before)[0]
        current[side] = not rebuild and is_current(nights[side], before, seen[side])
    described, earlier = nights["challenger"], before
    known = last_record(settings, SHADOW_STAGE, pipeline.name, night)
    if all(current.values()) and known is not None and known.details.get("champion") == models["champion"]:
        kept = {**models, "comparison": known.details["comparison"], "champion_written": False}
        return _result(settings, pipeline, described, started, kept, skipped=True)
    works: dict[str, Work] = {}
    committed: dict[str, dict[date, Writer]] = {}
    for side, (model, table) in sides.items():
        plan = plan_scoring(str(verified_folder(settings, model)), bounds=pipeline.output.limits)
        stamp = Stamp(model.name, model.version, datetime.now(timezone.utc), run_id)
        works[side] = Work(spark, settings, pipeline, table, plan, stamp, "spark", progress, seen[side])
        inputs = {} if rebuild or current[side] else {night: nights[side].inputs}
        committed[side] = find_committed(settings, table, column=AS_OF, inputs=inputs)
    if committed["champion"]:
        record_committed(works["champion"], [nights["champion"]], committed["champion"])
    written = [side for side in sides if not committed[side] and (side == "challenger" or not current[side])]
    details: dict[str, Any] = {**models, "champion_written": "champion" in written}
    if written:
        details |= _score_and_publish(works, nights, written, earlier, models)
    else:
        progress(f"comparing the predictions for {night} that an earlier run committed", None)
        details["comparison"] = _compare(_committed(works, night), pipeline)
    if committed["challenger"]:
        told = {"mode": _MODE, **models, "comparison": details["comparison"]}
        record_committed(works["challenger"], [described], committed["challenger"], stage=SHADOW_STAGE, details=told)
    return _result(settings, pipeline, described, started, details, skipped=False)


def _score_and_publish(
    works: Mapping[str, Work],
    nights: Mapping[str, Night],
    written: Sequence[str],
    earlier: Mapping[date | None, StageRecord],
    models: Mapping[str, str],
) -> dict[str, Any]:
    """Score a night with both models in one scan; returns its part of the details."""
    work, described = works["challenger"], nights["challenger"]
    settings, pipeline = work.settings, work.pipeline
    assert work.spark is not None
    session = own_session(work.spark, settings.scoring_batch_rows or BATCH_ROWS)
    runtime, cores = work.plan.spec.runtime, work.cores
    predicted = predict(earlier, rows=described.rows, cores=cores, engine="spark", runtime=runtime, mode=_MODE)
    work.progress(f"scoring {described.night} with {' and '.join(models.values())}", None)
    if predicted is not None:
        work.progress(sentence(predicted, settings), None)
    scanned = time.perf_counter()
    both = _both(session, settings, pipeline, {side: each.plan for side, each in works.items()}, described).persist()
    try:
        comparison = _compare(both, pipeline)
        actual = Figures(described.rows, time.perf_counter() - scanned, cores, None, "measured")
        # The scan is the work of all that is written from it: their costs in the ledger add up to the night's.
        share_s = actual.seconds / len(written)
        for side in written:
            staged = _stage(works[side], nights[side], both, side)
            actual = replace(actual, seconds=actual.seconds + staged.seconds)
            staged = replace(staged, seconds=staged.seconds + share_s, details={"mode": _MODE})
            if side == "challenger":
                told = {"mode": _MODE, **models, "comparison": comparison}
                staged = replace(staged, details=told, figures=actual)
            publish(works[side], [nights[side]], staged, stage=_STAGES[side])
    finally:
        both.unpersist()
    return {
        "comparison": comparison,
        "predicted": predicted.metadata(settings) if predicted else None,
        "actual": actual.metadata(settings),
    }


def _result(
    settings: Settings, pipeline: Pipeline, night: Night, started: float, details: Mapping[str, Any], *, skipped: bool
) -> StageResult:
    return StageResult(
        stage=SHADOW_STAGE,
        subject=pipeline.name,
        rows=night.rows,
        seconds=time.perf_counter() - started,
        nights=(night.night,),
        table=pipeline.challenger_table,
        delta_version=table_version(settings, pipeline.challenger_table),
        skipped=skipped,
        details=details,
    )


def _both(
    session: "SparkSession", settings: Settings, pipeline: Pipeline, plans: Mapping[str, Plan], night: Night
) -> "DataFrame":
    """Key columns and one double for each model, in one pass over the features."""
    from pyspark.sql import functions as F

    wanted = {side: model_features(pipeline, plan.spec.inputs) for side, plan in plans.items()}
    columns = list(pipeline.features.names)
    # An array is cheaper to carry than a struct, and serves where both models take the same columns in one order.
    same = all(names == wanted["champion"] for names in wanted.values())
    features = F.array(*wanted["champion"]) if same else F.struct(*columns)
    scored = read_features(session, settings, pipeline, night).select(
        *pipeline.key, paired_udf(session, plans, pipeline.output.name)(features).alias("scores")
    )
    return scored.select(*pipeline.key, *(number(F.col("scores")[side]).alias(side) for side in plans))


def _committed(works: Mapping[str, Work], night: date) -> "DataFrame":
    """The same from what both tables hold."""
    from pyspark.sql import functions as F

    found = []
    for side, work in works.items():
        assert work.spark is not None
        rows = read_table(work.spark, work.settings, work.table).where(F.col(AS_OF) == F.lit(night))
        found.append(rows.select(*work.pipeline.key, F.col(work.pipeline.output.name).alias(side)))
    return found[0].join(found[1], list(works["champion"].pipeline.key))


def _stage(work: Work, night: Night, both: "DataFrame", side: str) -> Staged:
    from pyspark.sql import functions as F

    started = time.perf_counter()
    folder = staging_folder(night)
    rows = both.select(*work.pipeline.key, F.col(side).alias(work.pipeline.output.name))
    write_rows(stamped(rows, work.pipeline, night, work.stamp), work.settings, work.table, folder)
    files = list_folder(work.settings, work.table, folder, night.night)
    return Staged({night.night: files}, night.rows, time.perf_counter() - started)


def _compare(both: "DataFrame", pipeline: Pipeline) -> dict[str, Any]:
    from pyspark.sql import functions as F

    old, new = F.col("champion"), F.col("challenger")
    moved = [(cut(s, old) != cut(s, new)).cast("bigint") for s in pipeline.segments]
    figures = both.agg(
        F.count(F.lit(1)).alias("rows"),
        F.avg(new - old).alias("mean_difference"),
        F.avg(F.abs(new - old)).alias("mean_absolute_difference"),
        F.max(F.abs(new - old)).alias("largest_difference"),
        F.corr(old, new).alias("correlation"),
        *(F.sum(flag).alias(s.name) for flag, s in zip(moved, pipeline.segments, strict=True)),
    ).first()
    assert figures is not None
    result = figures.asDict()
    # Spark's correlation with a constant is not a number, which JSON does not know.
    result["correlation"] = None if result["correlation"] != result["correlation"] else result["correlation"]
    segments = {segment.name: result.pop(segment.name) for segment in pipeline.segments}
    edges = both.approxQuantile("champion", [i / _BINS for i in range(1, _BINS)], 0.001)
    counts = [_histogram(both, side, sorted(set(edges))) for side in (old, new)]
    apart = distance(*counts)
    return {**result, "psi": apart.psi, "js": apart.js, "segment_changes": segments}


def _histogram(both: "DataFrame", column: "Column", edges: list[float]) -> list[int]:
    counts = [0] * (len(edges) + 1)
    for row in both.where(column.isNotNull()).groupBy(bin_of(column, edges).alias("bin")).count().collect():
        counts[row["bin"]] += row["count"]
    return counts
