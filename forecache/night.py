"""The night of a declaration without an orchestrator: ingest, check, build, train if due, score, check, publish.

Dagster's assets call the same functions, a step each, and show what they return.
"""

from collections.abc import Sequence
from datetime import date
from functools import partial
from typing import Literal

from forecache.base.errors import CheckError
from forecache.base.plugins import find_hooks, load_hook
from forecache.base.steps import begin_work
from forecache.declare import FeatureView, Pipeline, Realtime, Served, Source
from forecache.declare.project import Nightly
from forecache.declare.served import NightlyDeclaration
from forecache.lake.features import build_features, build_view
from forecache.lake.quality import stage_checks as checks
from forecache.lake.quality.pending_files import ProcessRun, ingest_pending
from forecache.lake.training_set import build_training_set
from forecache.models.registry.run_gate import run_gate
from forecache.models.training.launch import train
from forecache.operations.kept_contracts import keep_contracts
from forecache.operations.kept_features import keep_features, register_model
from forecache.operations.publish_night import publish_newest_night
from forecache.operations.release import release_model
from forecache.operations.rollback import recover_interrupted
from forecache.operations.training_due import is_training_due
from forecache.scoring.run import score_nights

Trains = Literal["due", "never", "first", "only"]
"""If a model is trained: if training is due, not at all, before the other stages, or without them."""


def run_declaration(run: ProcessRun, declared: Nightly, nights: Sequence[date], *, trains: Trains = "due") -> None:
    """Run the stages of a declaration, each after the checks of the last."""
    settings, views = run.settings, () if isinstance(declared, NightlyDeclaration | FeatureView) else declared.views
    for source in declared.all_sources:
        if isinstance(source, Source):
            ingest_pending(run, source, last=max(nights), on_checked=partial(run.note_raw_checks, source))
    for view in (declared,) if isinstance(declared, FeatureView) else views if trains != "only" else ():
        keep_contracts(run, view, nights)
        run.run_stage(build_view, settings, view, nights, rebuild=run.rebuild)
        checks.require_success(run.note_reports(view.feature_table, checks.check_features(run, view, nights)))
        publish_newest(run, view)
    if isinstance(declared, Pipeline | Realtime) and declared.is_trained and trains != "never":
        train_model(run, declared, max(nights), is_wanted=trains != "due")
    if isinstance(declared, Pipeline) and trains != "only":
        score_and_publish(run, declared, nights)
    if isinstance(declared, NightlyDeclaration):
        stage = load_hook(declared.plugin, declared.stage)
        made = run.run_stage(stage, settings, declared, nights, rebuild=run.rebuild)
        for table in declared.tables:
            reports = checks.check_predictions(run, table, made.nights)
            checks.require_success(run.note_reports(table.prediction_table, reports))
            publish_newest(run, table)
        if refusal := load_hook(declared.plugin, "refused_dates")(made):
            raise CheckError(refusal, remedy="The others are written, and the newest of all dates is published.")
    if isinstance(declared, Realtime):
        run.run_stage(release_model, settings, declared)


def score_and_publish(run: ProcessRun, declared: Pipeline, nights: Sequence[date]) -> None:
    if declared.is_joined:  # else they are those of its view
        run.run_stage(build_features, run.settings, declared, nights, rebuild=run.rebuild)
        checks.require_success(run.note_reports(declared.feature_table, checks.check_features(run, declared, nights)))
    keep_features(run, declared, nights)
    run.run_stage(score_nights, run.settings, declared, nights, rebuild=run.rebuild)
    reports = checks.check_predictions(run, declared, nights)
    checks.require_success(run.note_reports(declared.prediction_table, reports))
    for check_scores in find_hooks("check_scores"):
        check_scores(run, declared, nights)
    publish_newest(run, declared)
    for report_scores in find_hooks("report_scores"):
        report_scores(run, declared, max(nights))


def train_model(run: ProcessRun, declared: Pipeline | Realtime, night: date, *, is_wanted: bool) -> None:
    """Train, if it is wanted or due, as of the date; a candidate that passes the gate is the champion and scores."""
    settings = run.settings
    if not is_wanted and not is_training_due(settings, declared):
        return
    begin_work(f"training {declared.name}")
    build = build_training_set if isinstance(declared, Pipeline) else load_hook("historical_features", "build_examples")
    training_set = run.run_stage(build, settings, declared, night, rebuild=run.rebuild)
    checks.require_success({night: checks.check_training_splits(declared, training_set)})
    candidate = run.run_stage(train, settings, declared, night)
    registered = run.run_stage(register_model, settings, declared, candidate)
    recover_interrupted(settings, declared, progress=run.progress)
    version = registered.details["model_version"]
    run.report_progress(f"the gate judges {declared.name} version {version}")
    verdict = run_gate(settings, declared, version, actor="nightly run", run_id=run.run_id)
    if not verdict.passed:
        run.add_objection(verdict.line)


def publish_newest(run: ProcessRun, declared: Served) -> None:
    if declared.publish is not None:
        run.run_stage(publish_newest_night, run.settings, declared)
