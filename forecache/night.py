"""The night of a project without an orchestrator: ingest, check, build, train if due, score, check, publish.

Dagster's assets call the same functions, a step each, and show what they return.
"""

from datetime import date

from forecache.base.errors import CheckError, PipelinesFailedError
from forecache.base.plugins import find_hooks, load_hook
from forecache.base.results import Progress, StageResult, no_progress
from forecache.base.settings import Settings
from forecache.declare import FeatureView, Pipeline, Realtime, Served
from forecache.declare.as_of import newest_as_of
from forecache.declare.loading import read_project
from forecache.declare.project import Nightly
from forecache.declare.served import NightlyDeclaration
from forecache.lake.features import build_features, build_view
from forecache.lake.quality import stage_checks as checks
from forecache.lake.quality.pending_files import ProcessRun, Run, ingest_pending
from forecache.lake.training_set import build_training_set
from forecache.models.registry.register import register_trained_model
from forecache.models.registry.run_gate import run_gate
from forecache.models.training.launch import train
from forecache.operations.publish_night import publish_newest_night
from forecache.operations.release import release_model
from forecache.operations.rollback import recover_interrupted
from forecache.operations.training_due import is_training_due
from forecache.scoring.run import score_nights


def run_night(settings: Settings, night: date | None = None, progress: Progress = no_progress) -> list[StageResult]:
    """Run all that a project declares for an as-of date (default: the newest of each); what is current is skipped.

    Raises:
        PipelinesFailedError: Some failed, with the error of each; the others ran to their end.
    """
    run, project = ProcessRun(settings, progress), read_project(settings)
    failures: dict[str, BaseException] = {**project.broken}
    for name, declared in project.nightly.items():
        try:
            run_declaration(run, declared, night or newest_as_of(declared))
        except Exception as error:  # noqa: BLE001  (whatever it is, it is raised at the end)
            failures[name] = error
    if failures:
        raise PipelinesFailedError(failures, of=len(project.nightly.keys() | failures))
    return run.results


def run_declaration(run: Run, declared: Nightly, night: date) -> None:
    """Run the stages of a declaration, each after the checks of the last."""
    settings, views = run.settings, () if isinstance(declared, NightlyDeclaration | FeatureView) else declared.views
    for source in declared.all_sources:
        ingest_pending(run, source, last=night)
    for view in (declared,) if isinstance(declared, FeatureView) else views:
        run.run_stage(build_view, settings, view, [night])
        checks.require_success(checks.check_features(run, view, [night]))
        publish_newest(run, view)
    if isinstance(declared, Pipeline | Realtime) and declared.is_trained:
        train_if_due(run, declared, night)
    if isinstance(declared, Pipeline):
        run.run_stage(build_features, settings, declared, [night])
        checks.require_success(checks.check_features(run, declared, [night]))
        recover_interrupted(settings, declared, progress=run.progress)
        run.run_stage(score_nights, settings, declared, [night])
        checks.require_success(checks.check_predictions(run, declared, [night]))
        for check_scores in find_hooks("check_scores"):
            check_scores(settings, declared, [night], run_id=run.run_id)
        publish_newest(run, declared)
    if isinstance(declared, NightlyDeclaration):
        made = run.run_stage(load_hook(declared.plugin, declared.stage), settings, declared, [night])
        for table in declared.tables:
            checks.require_success(checks.check_predictions(run, table, made.nights))
            publish_newest(run, table)
        if refusal := load_hook(declared.plugin, "refused_dates")(made):
            raise CheckError(refusal, remedy="The others are written, and the newest of all dates is published.")
    if isinstance(declared, Realtime):
        run.run_stage(release_model, settings, declared)


def train_if_due(run: Run, declared: Pipeline | Realtime, night: date) -> None:
    """Train as of the date and have the gate judge the candidate: if it passes, it is the champion and scores."""
    settings = run.settings
    if not is_training_due(settings, declared):
        return
    build = build_training_set if isinstance(declared, Pipeline) else load_hook("historical_features", "build_examples")
    training_set = run.run_stage(build, settings, declared, night)
    checks.require_success({night: checks.check_training_splits(declared, training_set)})
    candidate = run.run_stage(train, settings, declared, night)
    registered = run.run_stage(register_trained_model, settings, declared, candidate)
    recover_interrupted(settings, declared, progress=run.progress)
    run_gate(settings, declared, registered.details["model_version"], actor="night", run_id=run.run_id)


def publish_newest(run: Run, declared: Served) -> None:
    if declared.publish is not None:
        run.run_stage(publish_newest_night, run.settings, declared)
