"""The scoring run: nights whose inputs changed are scored, checked and committed, each exactly once.

A night is current if its last row in the stage ledger has the same inputs (model version, feature version, declaration,
kernel). Small nights share a job and a commit; a large one has a commit of its own, and its shards survive a kill. The
files become visible by one commit to the Delta log, after the checks.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime, timezone
from typing import Any

from forecache.base.plugins import load_hook
from forecache.base.results import Progress, StageResult, no_progress
from forecache.base.settings import Settings
from forecache.base.steps import begin_work
from forecache.declare import AS_OF, Pipeline
from forecache.kit.delta.partitions import find_committed_partitions, take_snapshot
from forecache.kit.delta.tables import table_version
from forecache.lake.engine import EngineName, decide_engine, num_cores
from forecache.lake.ledger import StageRecord, last_records
from forecache.lake.provenance import Stamp
from forecache.lake.stage_runner import StaleWork, adopt_partitions, find_stale, format_nights, hold_table_lock
from forecache.models.registry.applied.pipeline_models import scoring_model
from forecache.models.registry.applied.scoring_plan import plan_model
from forecache.models.registry.model_versions import ModelVersion
from forecache.scoring.batch_size import BatchSize, calibrate
from forecache.scoring.cost_estimate import RunFigures, combine_figures, format_plan, memory_warnings, predict
from forecache.scoring.incremental.score_changes import BasePredictions, Mode, find_base
from forecache.scoring.night_inputs import (
    STAGE,
    ScoringNight,
    ScoringRun,
    ScoringWork,
    describe_nights,
)
from forecache.scoring.partitions.commit import commit, record_committed
from forecache.scoring.partitions.shards import stage_changes, stage_nights
from forecache.scoring.trained_features import find_other_features, find_scored_pipeline

_ROWS_AT_ONCE = 2_000_000


def score(
    settings: Settings,
    pipeline: Pipeline,
    nights: Sequence[date],
    *,
    run_id: str = "",
    progress: Progress = no_progress,
    engine: EngineName | None = None,
    model: ModelVersion | None = None,
    mode: Mode = "auto",
    rebuild: bool | Collection[date] = False,
) -> StageResult:
    """Score every entity of the nights with the champion into the prediction table.

    Args:
        engine: "spark", or "arrow" for one machine without a JVM: the same rows, the same table, the same ledger. None:
            as `forecache.lake.engine.decide_engine` says.
        model: Another version than the champion.
        mode: "auto" carries predictions forward if a night that was scored before had few of its features changed;
            "incremental" also from the latest earlier night with the same model, declaration and kernel; "full" never.
            See `forecache.scoring.incremental.score_changes`.
        rebuild: True: score every night in full, current or not; dates: only these.

    Returns:
        Rows over all given nights; `details` has `scored` (nights), `rows_by_night`, `scored_rows` (rows that this run
        scored; fewer if it reused another's shards or carried forward), `carried_rows`, `rows_per_second`, `plan` (of
        the model), `batch` (see `forecache.scoring.batch_size`), `predicted` and `actual` (see
        `forecache.scoring.cost_estimate`; predicted is None if nothing is known yet), `warnings` (one is that the model
        was trained on features of another definition), `checks` by night, `judged` (for a registered model with floors:
        `accepted`, `reason`), and `taken_over`: by night, the run that committed the same predictions meanwhile.

    Raises:
        NotFoundError: There is no champion, or a night has no features.
        InputError: A night is empty, or the features do not fit the model.
        CheckError: The predictions of a night are wrong; what was visible stays.
        ConflictError: Another run changed a night meanwhile, from other inputs.
    """
    with hold_table_lock(settings, pipeline.prediction_table, run_id, progress):
        run = ScoringRun(
            settings=settings,
            pipeline=pipeline,
            model=model or scoring_model(settings, pipeline, run_id=run_id),
            table=pipeline.prediction_table,
            stage=STAGE,
            asked_engine=engine,
            run_id=run_id,
            progress=progress,
        )
        return score_stale(run, nights, mode=mode, rebuild=set(nights) if rebuild is True else set(rebuild or ()))


def score_nights(
    settings: Settings,
    pipeline: Pipeline,
    nights: Sequence[date],
    *,
    run_id: str = "",
    progress: Progress = no_progress,
    rebuild: bool = False,
) -> StageResult:
    """Score nights with the champion and with the challenger, if one is declared and there is one; raises as `score`.

    Returns:
        As `score`, with `predicted` and `actual` of both models together; `details["challenger"]` has the challenger's
        `model`, `table` and, by night (ISO), either `rows` and the `comparison` of `score_shadow` or the `error`. It is
        missing without a challenger.
    """
    score_challenger = load_hook("challengers", "score_challenger") if pipeline.shadow else None
    result = score(settings, pipeline, nights, run_id=run_id, progress=progress, rebuild=rebuild)
    if score_challenger is None:
        return result
    both: StageResult = score_challenger(
        settings, pipeline, nights, result, run_id=run_id, progress=progress, rebuild=rebuild
    )
    return both


def score_stale(run: ScoringRun, nights: Sequence[date], *, mode: Mode, rebuild: Collection[date]) -> StageResult:
    """Score those of the nights that are not current; as `score`, by a caller who holds the table's lock.

    Nights in `rebuild` are scored again also if they are current. The features are those of the model's training, if
    their definition is kept.
    """
    warnings = find_other_features(run.settings, run.pipeline, run.model)
    run = replace(run, pipeline=find_scored_pipeline(run.settings, run.pipeline, run.model))
    stage, settings, pipeline, model = run.ledger, run.settings, run.pipeline, run.model
    seen = take_snapshot(settings, run.table, AS_OF)
    before = last_records(settings, run.stage, pipeline.name, nights=nights)
    described = describe_nights(settings, pipeline, model, sorted(set(nights)), before, compared_with=run.compared_with)
    to_do = find_stale(
        {night.night: night.inputs for night in described},
        before,
        rebuild=rebuild,
        usable=lambda last: last.rows == seen.rows.get(f"{last.as_of}"),  # the table still has it
    )
    pending = [night for night in described if night.night in to_do]
    rows = {night.night: night.rows for night in described}
    outcome: dict[str, Any] = {"scored": [], "model": f"{model.name}@{model.version}", "warnings": warnings}
    if model.gate != "none" and not pipeline.is_trained:
        outcome["judged"] = {"accepted": model.gate == "passed", "reason": model.tags["gate_reason"]}
    if pending:
        stale = StaleWork(stage, {night.night: night.inputs for night in pending}, before)
        begin_work(f"{run.stage} of {pipeline.name} for {format_nights(to_do)}", stale=stale)
        before = last_records(settings, run.stage, pipeline.name)
        plan, num_rows = plan_model(settings, pipeline, model), sum(night.rows for night in pending)
        is_serial = plan.spec.runtime == "pyfunc"
        engine = decide_engine(settings, rows=num_rows, is_serial=is_serial, engine=run.asked_engine)
        engine.report(outcome, run.progress, about=f"scoring {pipeline.name}")
        stamp = Stamp(model.name, model.version, datetime.now(timezone.utc), run.run_id)
        work = ScoringWork(**vars(run), engine=engine, plan=plan, stamp=stamp, seen=seen)
        inputs = {night.night: night.inputs for night in pending if night.night not in rebuild}
        adopt_partitions(stage, run.table, inputs, column=AS_OF, seen=seen, progress=run.progress)
        written = find_committed_partitions(settings, run.table, column=AS_OF, inputs=inputs)
        recorded, pending = [n for n in pending if n.night in written], [n for n in pending if n.night not in written]
        checks = record_committed(work, recorded, written) if recorded else {}
        done = _score_pending(work, pending, before, mode, rebuild)
        outcome |= {**done, "warnings": [*warnings, *done["warnings"]], "checks": done["checks"] | checks}
    return stage.result(
        sum(rows.values()),
        nights=rows,
        table=run.table,
        version=table_version(settings, run.table),
        skipped=not pending,
        details={**outcome, "rows_by_night": {night.isoformat(): count for night, count in rows.items()}},
    )


def _predict_run(
    work: ScoringWork,
    parts: Sequence[Sequence[ScoringNight]],
    before: Mapping[date | None, StageRecord],
    batch: BatchSize | None,
) -> RunFigures | None:
    """Predict the figures of the nights to score in full and of those to score incrementally, together."""
    known = {"engine": work.engine.name, "runtime": work.plan.spec.runtime}
    rate = batch.rows_per_second if batch else None
    found = []
    for mode, nights in zip(("full", "incremental"), parts, strict=True):
        if nights:
            rows = sum(night.rows for night in nights)
            cores = num_cores() if mode == "incremental" else work.cores
            found += [predict(before, rows=rows, cores=cores, core_rate=rate, mode=mode, **known)]
    return combine_figures(found)


def _scaled_progress(progress: Progress, first: float, last: float) -> Progress:
    """A progress callback that maps shares from 0 to 1 to those from `first` to `last`."""

    def report(message: str, share: float | None = None) -> None:
        progress(message, None if share is None else first + share * (last - first))

    return report


def _score_pending(
    work: ScoringWork,
    pending: Sequence[ScoringNight],
    before: Mapping[date | None, StageRecord],
    mode: Mode,
    rebuild: Collection[date],
) -> dict[str, Any]:
    bases = {
        night.night: base
        for night in pending
        if night.night not in rebuild and (base := find_base(work, night, before, mode=mode)) is not None
    }
    full = [night for night in pending if night.night not in bases]
    batch = calibrate(work, full) if full else None
    predicted = _predict_run(work, [full, [n for n in pending if n.night in bases]], before, batch)
    if predicted is not None:
        work.progress(format_plan(predicted, work.settings), None)
    return {
        "batch": batch.metadata() if batch else None,
        "predicted": predicted.metadata(work.settings) if predicted else None,
        **_score_chunks(replace(work, batch_rows=batch.rows) if batch else work, pending, bases),
    }


def _score_chunks(
    work: ScoringWork, pending: Sequence[ScoringNight], bases: Mapping[date, BasePredictions]
) -> dict[str, Any]:
    checks: dict[str, Any] = {}
    taken_over: dict[str, str] = {}
    scored_rows, carried_rows, seconds = 0, 0, 0.0
    measured: list[RunFigures] = []
    rows, done = sum(night.rows for night in pending), 0
    for chunk in _chunks(pending, alone=bases):
        first, upto = chunk[0].night, done + sum(night.rows for night in chunk)
        about = f"scoring {format_nights([night.night for night in chunk])}"
        work.progress(f"{about} with {work.stamp.model_name} version {work.stamp.model_version}", done / rows)
        within = replace(work, progress=_scaled_progress(work.progress, done / rows, upto / rows))
        staged = stage_changes(within, chunk[0], bases[first]) if first in bases else stage_nights(within, chunk)
        outcome = commit(work, chunk, staged)
        checks |= outcome.checks
        taken_over |= outcome.taken_over
        done = upto
        measured += [staged.figures] if staged.figures else []
        scored_rows, seconds = scored_rows + staged.scored_rows, seconds + staged.seconds
        carried_rows += staged.details.get("carried", 0)
    actual = combine_figures(measured)
    return {
        "scored": [night.night.isoformat() for night in pending],
        "scored_rows": scored_rows,
        "carried_rows": carried_rows,
        "rows_per_second": round(scored_rows / seconds) if seconds and scored_rows else 0,
        "plan": work.plan.metadata(),
        "actual": actual.metadata(work.settings) if actual else None,
        "warnings": [*work.plan.warnings, *memory_warnings(actual, work.settings)],
        "checks": checks,
        "taken_over": taken_over,
    }


def _chunks(nights: Sequence[ScoringNight], *, alone: Collection[date]) -> list[list[ScoringNight]]:
    """Group nights, ascending, that share a job and a commit; a large or incremental night has a group of its own."""
    chunks: list[list[ScoringNight]] = []
    for night in nights:
        apart = night.night in alone or (chunks and chunks[-1][-1].night in alone)
        if chunks and not apart and sum(other.rows for other in chunks[-1]) + night.rows <= _ROWS_AT_ONCE:
            chunks[-1].append(night)
        else:
            chunks.append([night])
    return chunks
