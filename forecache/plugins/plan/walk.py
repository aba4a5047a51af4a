"""The walk through a run that only looks: each stage says by its own inputs whether it would work.

A stage that would is noted, and its result is assumed, so that the stages after it compare their inputs with that.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date, datetime, timezone
from functools import partial
from typing import Any

from forecache.base.errors import ForecacheError, NotFoundError
from forecache.base.plugins import find_hooks, is_installed, load_hook
from forecache.base.results import StageResult
from forecache.base.settings import Settings
from forecache.base.steps import WorkNeeded, only_look
from forecache.declare import FeatureView, Pipeline, Realtime, Served, Source, Trainable
from forecache.declare.loading import load_nightly, read_project
from forecache.declare.project import Nightly
from forecache.declare.served import NightlyDeclaration, PluginTable
from forecache.kit.delta.tables import table_exists, table_version
from forecache.lake.features import STAGE as FEATURES
from forecache.lake.features import build_joined, build_view
from forecache.lake.ledger import StageRecord, assume_records, last_record, last_records, newest_record
from forecache.lake.quality import stage_checks as checks
from forecache.lake.quality.pending_files import ProcessRun
from forecache.lake.quality.verdicts import DRIFT_STAGE
from forecache.lake.quality.verdicts import STAGE as CHECK
from forecache.lake.sources import count_rows
from forecache.lake.stage_runner import Stage, StaleWork
from forecache.lake.training_set import STAGE as TRAINING_SET
from forecache.lake.training_set import as_of_dates, build_training_set
from forecache.models.inference.kernel_spec import KERNEL_VERSION
from forecache.models.registry.applied.pipeline_models import scoring_model
from forecache.models.registry.applied.scoring_plan import plan_model
from forecache.models.registry.gate.verdicts import outdated_reason
from forecache.models.registry.model_versions import (
    CHALLENGER,
    CHAMPION,
    ModelVersion,
    find_champion,
    list_models,
    model_version,
)
from forecache.models.registry.register import STAGE as REGISTER
from forecache.models.registry.run_gate import STAGE as GATE
from forecache.models.training.launch import STAGE as TRAIN
from forecache.models.training.launch import pinned_version, plan_training, training_inputs
from forecache.operations.publish_night import STAGE as PUBLISH
from forecache.operations.publish_night import publish_newest_night
from forecache.operations.release import STAGE as RELEASE
from forecache.operations.release import release_model
from forecache.plugins.plan.causes import CauseFinder
from forecache.plugins.plan.estimates import Estimator
from forecache.plugins.plan.plan import Plan, PlannedStage, price_of
from forecache.plugins.plan.sources import find_source_work
from forecache.runs import RunRequest, as_of_span, choose_job, find_follow_up_sources
from forecache.scoring.batch_size import calibration_inputs
from forecache.scoring.night_inputs import STAGE as SCORE
from forecache.scoring.night_inputs import night_inputs
from forecache.scoring.run import score_nights


@dataclass(frozen=True)
class FoundWork:
    """A stage that would run; see `PlannedStage`. `rows` are those of all its dates, if that is known."""

    stage: str
    subject: str
    dates: tuple[date, ...]
    causes: tuple[str, ...]
    condition: str = ""
    rows: int | None = None


def plan_run(settings: Settings, request: RunRequest) -> Plan:
    """Plan what a run would do, without writing anything.

    Raises:
        NotFoundError: A declaration is not there.
        SettingsError: The project cannot be loaded.
    """
    walk = Walk(settings, rebuild=request.rebuild)
    with only_look():
        walk.follow(request)
        subjects = {name for each in walk.found for name in (each.subject, *walk.related.get(each.subject, ()))}
        estimator = Estimator(settings, sorted(subjects))
    stages = []
    for each in walk.found:
        rows = each.rows if estimator.expected_rows(each.stage, each.subject) is None else None
        if each.stage == "ingest":
            rows = each.rows
        estimate = estimator.estimate(each.stage, each.subject, dates=len(each.dates), rows=rows)
        stages.append(PlannedStage(each.stage, each.subject, each.dates, each.causes, each.condition, estimate))
    plan = Plan(tuple(stages), tuple(walk.notes), walk.blocked, datetime.now(timezone.utc))
    return replace(plan, prices=price_of(settings, plan.core_s))


class Walk:
    """Goes through the stages of a run as `forecache.night` does, and notes those that would work."""

    def __init__(self, settings: Settings, *, rebuild: bool = False) -> None:
        self.settings, self.rebuild = settings, rebuild
        self.found: list[FoundWork] = []
        self.notes: list[str] = []
        self.blocked: dict[str, str] = {}
        self.related: dict[str, tuple[str, ...]] = {}
        """By subject others whose runs tell something about it."""
        self._run = ProcessRun(settings)
        self._causes = CauseFinder(settings)
        self._views: dict[str, list[date]] = {}
        self._walked: dict[str, set[date]] = {}
        self._checked: set[str] = set()

    def follow(self, request: RunRequest) -> None:
        """Go through all that a request asks for."""
        chosen = [load_nightly(self.settings, name) for name in request.pipelines]
        sources = {s.name: s for declared in chosen for s in declared.all_sources if isinstance(s, Source)}
        sources |= {name: read_project(self.settings).landed_sources[name] for name in request.sources}
        sources |= {source.name: source for source in find_follow_up_sources(self.settings, chosen)}
        for source in sources.values():
            with self._note_error(source.name):
                self._plan_source(source)
        for declared in chosen if request.job != "ingest" else ():
            lacking = [source.name for source in declared.all_sources if source.name in self.blocked]
            if lacking:
                self.blocked[declared.name] = f"its source {lacking[0]} cannot be read"
                continue
            with self._note_error(declared.name):
                span = as_of_span(declared, request.nights)
                job = choose_job(self.settings, declared, request.job)
                self._plan_declaration(declared, declared.schedule.as_of_dates(*span), job)

    @contextmanager
    def _note_error(self, name: str) -> Iterator[None]:
        try:
            yield
        except ForecacheError as error:
            self.blocked[name] = str(error)

    def _add(
        self,
        stage: str,
        subject: str,
        dates: Sequence[date] = (),
        *causes: str,
        condition: str = "",
        rows: int | None = None,
    ) -> None:
        known = {day for each in self.found if (each.stage, each.subject) == (stage, subject) for day in each.dates}
        new = sorted({*dates} - known)
        if new or (not dates and stage in _WITHOUT_DATES):
            self.found.append(FoundWork(stage, subject, tuple(new), causes, condition, rows))

    def _look(self, stage: Callable[..., Any], *arguments: Any, **more: Any) -> StaleWork | None | WorkNeeded:
        """The work that a stage would do, None if it is current; WorkNeeded itself if it does not say what."""
        try:
            stage(*arguments, **more)
        except WorkNeeded as needed:
            return needed if needed.stale is None else needed.stale
        return None

    def _add_stale(self, work: StaleWork, *, rows: int | None = None, condition: str = "") -> list[date]:
        """Note what a stage has to do; returns its dates."""
        dates = [day for day in work.inputs if isinstance(day, date)]
        causes = self._causes.find(work, rebuild=self.rebuild and work.stage.name != CHECK)
        self._add(work.stage.name, work.stage.subject, dates, *causes, condition=condition, rows=rows)
        return sorted(dates)

    def _plan_source(self, source: Source) -> None:
        work = find_source_work(self.settings, source)
        for stage, subject, days, causes, rows in work.stages:
            self._add(stage, subject, days, *causes, rows=rows)
        if work.cause:
            self._causes.pending[source.raw_table] = work.cause

    def _plan_declaration(self, declared: Nightly, nights: Sequence[date], job: str) -> None:
        is_trained = isinstance(declared, Pipeline | Realtime) and declared.is_trained
        views = () if isinstance(declared, NightlyDeclaration | FeatureView) else declared.views
        self._causes.views = [view.name for view in views]
        for view in (declared,) if isinstance(declared, FeatureView) else views if job != "training" else ():
            self._plan_view(view, nights)
        condition = ""
        if is_trained and job in ("training", "full"):
            condition = self._plan_training(declared, max(nights))
        elif is_trained:
            self._note_training(declared)
        if isinstance(declared, Pipeline) and job != "training":
            self._plan_scores(declared, nights, condition)
        if isinstance(declared, NightlyDeclaration):
            self._plan_made(declared, nights)
        if isinstance(declared, Realtime):
            self._plan_release(declared, condition)

    def _plan_view(self, view: FeatureView, nights: Sequence[date]) -> None:
        built = self._plan_features(view, partial(build_view, self.settings, view), nights)
        if view.publish is not None:
            self._plan_publish(view, built)

    def _plan_features(
        self, declared: FeatureView | Pipeline, build: Callable[..., StageResult], nights: Sequence[date]
    ) -> list[date]:
        """Plan the features of a view or those that a pipeline joins; returns the dates that would be built."""
        subject, table = declared.name, declared.feature_table
        known, walked = self._views.get(table, []), self._walked.setdefault(table, set())
        left = [night for night in nights if night not in walked]
        walked |= {*left}
        found = self._look(build, left, rebuild=self.rebuild) if left else None
        built: list[date] = []
        if isinstance(found, StaleWork):
            if isinstance(declared, FeatureView) and declared.windows:
                self._plan_tiles(declared, [day for day in found.inputs if isinstance(day, date)])
            rows = count_rows(self.settings, declared.all_sources, last=max(nights))
            built = self._add_stale(found, rows=rows)
            self._assume(found, table)
            self._causes.pending[table] = f"the features of {subject} are written again"
        self._views[table] = sorted({*known, *built})
        self._plan_check(table, checks.check_features, declared, left, built)
        return built

    def _plan_tiles(self, view: FeatureView, nights: Sequence[date]) -> None:
        tiles: StaleWork = load_hook("window_features", "find_stale_tiles")(self.settings, view, nights)
        if tiles.inputs:
            self._add_stale(tiles)
            self._assume(tiles, view.tile_table)

    def _assume(self, work: StaleWork, table: str) -> int:
        """Let later stages find the records of some work; returns the version that its table would have."""
        version = table_version(self.settings, table) + 1 if table_exists(self.settings, table) else 0
        stage = work.stage
        assume_records(
            self.settings,
            [
                StageRecord(stage.name, stage.subject, day, text, table, version, 0, 0.0)
                for day, text in work.inputs.items()
            ],
        )
        return version

    def _plan_check(
        self, table: str, check: Callable[..., Any], declared: Any, nights: Sequence[date], written: Sequence[date]
    ) -> None:
        """Plan the checks of dates that would be written, and of others if their expectations have changed."""
        self._add(CHECK, table, written, _AGAIN)
        others = [night for night in nights if night not in written]
        if others and table not in self._checked and table_exists(self.settings, table):
            found = self._look(check, self._run, declared, others)
            if isinstance(found, StaleWork):
                self._add_stale(found)
                self._assume(found, table)
        if written:
            self._checked.add(table)

    def _plan_publish(self, declared: Served, written: Sequence[date], condition: str = "") -> None:
        is_planned = any((each.stage, each.subject) == (PUBLISH, declared.name) for each in self.found)
        if declared.publish is None or is_planned:
            return
        last = newest_record(self.settings, PUBLISH, declared.name)
        published = last.night if last else None
        if written and (published is None or max(written) >= published):
            cause = f"the rows of {max(written)} are written again" if published else "nothing is published yet"
            self._add(PUBLISH, declared.name, [max(written)], cause, condition=condition)
            return
        if last is None and not table_exists(self.settings, declared.served_table):
            return
        if self._look(publish_newest_night, self.settings, declared) is not None:
            what = "other rows, fields or rules than are declared now" if last else "nothing yet"
            nights = [published] if published else []
            self._add(PUBLISH, declared.name, nights, f"the published version has {what}", condition=condition)

    def _plan_training(self, declared: Pipeline | Realtime, night: date) -> str:
        """Plan a training; returns the condition under which a new model scores, "" if there is no new one."""
        settings, name = self.settings, declared.name
        build = build_training_set if isinstance(declared, Pipeline) else load_hook(_EXAMPLES, "build_examples")
        found = self._look(build, settings, declared, night, rebuild=self.rebuild)
        if isinstance(found, StaleWork):
            if isinstance(declared, Pipeline):
                days = sorted({day for some in as_of_dates(declared, night).values() for day in some})
                for view in declared.views:
                    if view.windows:
                        self._plan_tiles(view, days)
            self._add_stale(found, rows=count_rows(settings, declared.all_sources, last=night))
            self._assume(found, declared.training_table)
            self._causes.pending[declared.training_table] = "its training set is written again"
        plan = plan_training(settings, declared)
        text = training_inputs(
            declared, pinned_version(settings, declared), lanes=plan.lanes, precision=plan.training.precision
        )
        known = last_record(settings, TRAIN, name)
        if known is None or known.inputs != text:
            self._add_stale(StaleWork(Stage(settings, TRAIN, name), {None: text}, {None: known}))
            version = max((each.version for each in self._list_models(declared)), default=0) + 1
            self._add(REGISTER, name, (), "a new model is trained")
            self._add(GATE, name, (), f"version {version} is new")
            return f"if version {version} passes the gate"
        return self._plan_gate(declared, text)

    def _plan_gate(self, declared: Pipeline | Realtime, training: str) -> str:
        """Plan the registration and the gate of a model that is trained already."""
        settings, name = self.settings, declared.name
        registered = newest_record(settings, REGISTER, name)
        if registered is None or not registered.inputs.startswith(training):
            self._add(REGISTER, name, (), "its trained model is not registered")
            self._add(GATE, name, (), "its version is new")
            return "if its new version passes the gate"
        champion = find_champion(settings, declared)
        version = model_version(settings, declared, int(registered.details["model_version"]))
        reason = outdated_reason(declared, version, champion.version if champion else None)
        if not reason:
            return ""
        self._add(GATE, name, (), f"version {version.version}: {reason}")
        is_champion = champion is not None and champion.version == version.version
        return "" if is_champion else f"if version {version.version} passes the gate"

    def _note_training(self, declared: Pipeline | Realtime) -> None:
        """Note what a training would find changed in the declaration, which a nightly run does not train."""
        for stage in (TRAINING_SET, TRAIN):
            before = last_record(self.settings, stage, declared.name)
            if before is None:
                continue
            now = {"label": declared.fingerprints.training_set, "declared": declared.fingerprints.training}
            words = dict(word.split("=", 1) for word in before.inputs.split() if "=" in word)
            for part, fingerprint in now.items():
                if words.get(part, fingerprint) != fingerprint:
                    differences = "; ".join(self._causes.compare_fingerprints(words[part], fingerprint))
                    self.notes.append(f"The next {stage.replace('_', ' ')} of {declared.name} differs: {differences}.")

    def _plan_scores(self, declared: Pipeline, nights: Sequence[date], condition: str) -> None:
        if declared.is_joined:
            self._plan_features(declared, partial(build_joined, self.settings, declared), nights)
        scored, causes = list[date](), tuple[str, ...]()
        if not condition or any(CHAMPION in each.aliases for each in self._list_models(declared)):
            scored, causes = self._find_stale_scores(declared, nights)
        if scored or not condition:
            self._plan_scores_of(declared, nights, scored, causes)
        if condition:
            self._add(CALIBRATE, declared.name, (), _model_cause(condition), condition=condition)
            others = [night for night in nights if night not in scored]
            self._plan_scores_of(declared, nights, others, (_model_cause(condition),), condition)

    def _find_stale_scores(self, declared: Pipeline, nights: Sequence[date]) -> tuple[list[date], tuple[str, ...]]:
        """The dates that the present model would score, and why."""
        settings, name = self.settings, declared.name
        rebuilt = [night for night in nights if night in self._views[declared.feature_table]]
        others = [night for night in nights if night not in rebuilt]
        if cause := self._assume_model(declared):
            return list(nights), (cause,)
        model, scored = scoring_model(settings, declared), list(rebuilt)
        causes: tuple[str, ...] = ()
        found = self._look(score_nights, settings, declared, others, rebuild=self.rebuild) if others else None
        if isinstance(found, StaleWork) and found.stage.name == SCORE:
            causes = self._causes.find(found, rebuild=self.rebuild)
            scored += found.inputs
        elif isinstance(found, StaleWork):  # of the challenger alone
            self._add_stale(found)
        if rebuilt:
            records = last_records(settings, FEATURES, self._feature_subject(declared), nights=rebuilt)
            texts = {night: night_inputs(declared, model, records[night].delta_version) for night in rebuilt}
            before = last_records(settings, SCORE, name, nights=nights)
            causes += self._causes.find(StaleWork(Stage(settings, SCORE, name), texts, before), rebuild=self.rebuild)
        if scored and not settings.scoring_batch_rows and self._is_uncalibrated(declared, model):
            self._add(CALIBRATE, name, (), "the batch size of its model and outputs is not measured yet")
        return sorted(scored), tuple(dict.fromkeys(causes))

    def _is_uncalibrated(self, declared: Pipeline, model: ModelVersion) -> bool:
        settings, called = self.settings, f"{model.name}@{model.version}"
        known, last = last_record(settings, CALIBRATE, declared.name), newest_record(settings, SCORE, declared.name)
        if known is None or last is None or not known.inputs.startswith(f"{called} "):
            return True
        if f" declared={declared.fingerprints.scoring} kernel={KERNEL_VERSION}" in last.inputs:
            return False
        # Packing the model is left to the rare case that its outputs may have changed.
        return known.inputs != calibration_inputs(settings, called, plan_model(settings, declared, model))

    def _feature_subject(self, declared: Pipeline) -> str:
        return declared.name if declared.is_joined else declared.views[0].name

    def _list_models(self, declared: Trainable) -> list[ModelVersion]:
        """The registered versions; [] if there is no registry yet."""
        try:
            return list_models(self.settings, declared)
        except WorkNeeded:
            return []

    def _assume_model(self, declared: Pipeline) -> str:
        """Assume the number of a declared or referred model that no run has used yet; returns why it is not known which
        one scores, "" if it is.
        """
        found = self._look(scoring_model, self.settings, declared)
        if isinstance(found, StaleWork):
            self._add_stale(found)
            self._assume(found, "")
        elif isinstance(found, WorkNeeded):
            cause = "a new version of its registered model is judged"
            self._add("judge", declared.name, (), cause)
            return cause
        return ""

    def _plan_scores_of(
        self,
        declared: Pipeline,
        nights: Sequence[date],
        scored: Sequence[date],
        causes: Sequence[str],
        condition: str = "",
    ) -> None:
        """Plan the scoring of some of the dates, and what follows: checks, drift, the publish and the report."""
        settings, table, newest = self.settings, declared.prediction_table, max(nights)
        self._add(SCORE, declared.name, scored, *causes, condition=condition)
        if declared.shadow and is_installed("challengers") and self._has_challenger(declared):
            self._add("score_challenger", declared.name, scored, *causes, condition=condition)
        if condition:
            self._add(CHECK, table, scored, _AGAIN, condition=condition)
        else:
            self._plan_check(table, checks.check_predictions, declared, nights, scored)
        is_there = table_exists(settings, table)
        again = f"the predictions of {declared.name} are written again"
        for check_scores in find_hooks("check_scores"):
            if scored:
                self._add(DRIFT_STAGE, table, scored, again, condition=condition)
            elif is_there and self._look(check_scores, self._run, declared, nights):
                self._add(DRIFT_STAGE, table, nights, "its drift is not measured yet")
        if scored or not condition:
            self._plan_publish(declared, scored, condition)
        known = {*scored, *filter(None, last_records(settings, SCORE, declared.name))}
        beside = {newest, max((night for night in known if night < newest), default=newest)}
        for report_scores in find_hooks("report_scores"):
            if not beside.isdisjoint(scored):
                if declared.drift.report_rows:
                    self._add("drift_report", declared.name, [newest], again, condition=condition)
            elif is_there and not condition:
                found = self._look(report_scores, self._run, declared, newest)
                if isinstance(found, StaleWork):
                    self._add_stale(found)

    def _has_challenger(self, declared: Pipeline) -> bool:
        return any(CHALLENGER in each.aliases for each in self._list_models(declared))

    def _plan_made(self, declared: NightlyDeclaration, nights: Sequence[date]) -> None:
        """Plan the tables of a declaration of a plug-in, such as a recommender."""
        stage = load_hook(declared.plugin, declared.stage)
        found = self._look(stage, self.settings, declared, nights, rebuild=self.rebuild)
        written: list[date] = []
        if isinstance(found, StaleWork):
            rows = count_rows(self.settings, declared.all_sources, last=max(nights))
            written = self._add_stale(found, rows=rows)
        for table in declared.tables:
            self._plan_check(table.prediction_table, checks.check_predictions, table, nights, written)
            assert isinstance(table, PluginTable)
            self._plan_publish(table, written)

    def _plan_release(self, declared: Realtime, condition: str) -> None:
        if condition:
            self._add(RELEASE, declared.name, (), _model_cause(condition), condition=condition)
            return
        try:
            found = self._look(release_model, self.settings, declared)
        except NotFoundError as error:
            self.blocked[declared.name] = str(error)
            return
        if isinstance(found, StaleWork):
            self._add_stale(found)
        elif found is not None:
            self._add(RELEASE, declared.name, (), "an earlier release becomes current again")


_EXAMPLES = "historical_features"
CALIBRATE = f"calibrate_{SCORE}"
_AGAIN = "its rows are written again"
_WITHOUT_DATES = (TRAINING_SET, TRAIN, REGISTER, GATE, RELEASE, CALIBRATE, "model", "judge", "ingest")


def _model_cause(condition: str) -> str:
    return f"its model is {condition.removeprefix('if ').removesuffix(' passes the gate')}"
