"""The walk through a run that only looks: each stage says by its own inputs whether it would work.

A stage that would is noted, and its result is assumed, so that the stages after it compare their inputs with that.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from functools import partial
from typing import Any

from forecache.base.dates import Nights
from forecache.base.errors import ForecacheError, NotFoundError
from forecache.base.plugins import find_hooks, is_installed, load_hook
from forecache.base.results import StageResult
from forecache.base.settings import Settings
from forecache.base.steps import WorkNeeded
from forecache.base.table_names import FEATURES as FEATURES_PREFIX
from forecache.declare import FeatureView, Pipeline, Realtime, Served, Source, Trainable
from forecache.declare.loading import load_nightly, read_project
from forecache.declare.project import Nightly
from forecache.declare.served import NightlyDeclaration, PluginTable
from forecache.kit.delta.tables import table_exists
from forecache.lake.features import STAGE as FEATURES
from forecache.lake.features import build_joined, build_view
from forecache.lake.ledger import last_record, last_records, newest_record
from forecache.lake.quality import stage_checks as checks
from forecache.lake.quality.pending_files import ProcessRun
from forecache.lake.quality.verdicts import DRIFT_STAGE
from forecache.lake.quality.verdicts import STAGE as CHECK
from forecache.lake.sources import count_rows
from forecache.lake.stage_runner import Stage, StaleWork, assume_done, find_stale_work
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
from forecache.plugins.plan.causes import describe_content_change
from forecache.plugins.plan.findings import AGAIN, Findings, FoundWork, note_kept_features
from forecache.plugins.plan.sources import find_source_work
from forecache.runs import RunRequest, as_of_span, choose_job, find_follow_up_sources
from forecache.scoring.batch_size import calibration_inputs
from forecache.scoring.night_inputs import STAGE as SCORE
from forecache.scoring.night_inputs import night_inputs
from forecache.scoring.run import score_nights
from forecache.scoring.trained_features import find_other_features, find_scored_pipeline


class Walk:
    """Goes through the stages of a run as `forecache.night` does, and notes those that would work."""

    def __init__(self, settings: Settings, *, rebuild: bool = False) -> None:
        self.settings, self.rebuild = settings, rebuild
        self._noted = Findings(settings, rebuild=rebuild)
        self.notes: list[str] = []
        self.blocked: dict[str, str] = {}
        self._run = ProcessRun(settings)
        self._views: dict[str, list[date]] = {}
        self._walked: dict[str, set[date]] = {}
        self._checked: set[str] = set()

    @property
    def found(self) -> list[FoundWork]:
        """The stages that would run."""
        return self._noted.found

    def follow(self, requests: Sequence[RunRequest]) -> None:
        """Go through all that is asked for by runs that differ in their declarations and dates only."""
        if not requests:
            return
        ranges: dict[str, list[Nights | None]] = {}
        for request in requests:
            for name in request.pipelines:
                ranges.setdefault(name, []).append(request.nights)
        chosen = [load_nightly(self.settings, name) for name in ranges]
        sources = {s.name: s for declared in chosen for s in declared.all_sources if isinstance(s, Source)}
        sources |= {name: read_project(self.settings).landed_sources[name] for name in requests[0].sources}
        sources |= {source.name: source for source in find_follow_up_sources(self.settings, chosen)}
        job = requests[0].job
        days = [request.nights for request in requests] if job == "ingest" else [None]
        for source in sources.values():
            for some in days:
                with self._note_error(source.name):
                    self._plan_source(source, some)
        for declared in chosen if job != "ingest" else ():
            lacking = [source.name for source in declared.all_sources if source.name in self.blocked]
            if lacking:
                self.blocked[declared.name] = f"its source {lacking[0]} cannot be read"
                continue
            with self._note_error(declared.name):
                spans = [as_of_span(declared, each) for each in ranges[declared.name]]
                nights = sorted({night for span in spans for night in declared.schedule.as_of_dates(*span)})
                self._plan_declaration(declared, nights, choose_job(self.settings, declared, job))

    @contextmanager
    def _note_error(self, name: str) -> Iterator[None]:
        try:
            yield
        except ForecacheError as error:
            self.blocked[name] = str(error)

    def _plan_source(self, source: Source, asked: Nights | None) -> None:
        work = find_source_work(self.settings, source, asked)
        for stage, subject, days, causes, rows in work.stages:
            self._noted.add(stage, subject, days, *causes, rows=rows)
        if work.cause:
            self._noted.causes.pending[source.raw_table] = work.cause

    def _plan_declaration(self, declared: Nightly, nights: Sequence[date], job: str) -> None:
        views = () if isinstance(declared, NightlyDeclaration | FeatureView) else declared.views
        self._noted.causes.views = [view.name for view in views]
        for view in (declared,) if isinstance(declared, FeatureView) else views if job != "training" else ():
            self._plan_view(view, nights)
        condition = ""
        if isinstance(declared, Pipeline | Realtime) and declared.is_trained:
            if job in ("training", "full"):
                condition = self._plan_training(declared, max(nights))
            else:
                self.notes += self._noted.causes.describe_training(declared)
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
        found = find_stale_work(build, left, rebuild=self.rebuild) if left else None
        built: list[date] = []
        if isinstance(found, StaleWork):
            if isinstance(declared, FeatureView) and declared.windows:
                self._plan_tiles(declared, [day for day in found.inputs if isinstance(day, date)])
            rows = count_rows(self.settings, declared.all_sources, last=max(nights))
            built = self._noted.add_stale(found, rows=rows)
            assume_done(found, table)
            self._noted.causes.pending[table] = f"the features of {subject} are written again"
        self._views[table] = sorted({*known, *built})
        self._plan_check(table, checks.check_features, declared, left, built)
        return built

    def _plan_tiles(self, view: FeatureView, nights: Sequence[date]) -> None:
        tiles: StaleWork = load_hook("window_features", "find_stale_tiles")(self.settings, view, nights)
        if tiles.inputs:
            self._noted.add_stale(tiles)
            assume_done(tiles, view.tile_table)

    def _plan_check(
        self, table: str, check: Callable[..., Any], declared: Any, nights: Sequence[date], written: Sequence[date]
    ) -> None:
        """Plan the checks of dates that would be written, and of others if their expectations have changed."""
        self._noted.add(CHECK, table, written, AGAIN)
        others = [night for night in nights if night not in written]
        if others and table not in self._checked and table_exists(self.settings, table):
            found = find_stale_work(check, self._run, declared, others)
            if isinstance(found, StaleWork):
                self._noted.add_stale(found)
                assume_done(found, table)
        if written:
            self._checked.add(table)

    def _plan_publish(self, declared: Served, written: Sequence[date], condition: str = "") -> None:
        is_planned = any((each.stage, each.subject) == (PUBLISH, declared.name) for each in self._noted.found)
        if declared.publish is None or is_planned:
            return
        last = newest_record(self.settings, PUBLISH, declared.name)
        published = last.as_of if last else None
        if written and (published is None or max(written) >= published):
            cause = f"the rows of {max(written)} are written again" if published else "nothing is published yet"
            self._noted.add(PUBLISH, declared.name, [max(written)], cause, condition=condition)
            return
        if last is None and not table_exists(self.settings, declared.served_table):
            return
        found = find_stale_work(publish_newest_night, self.settings, declared)
        if found is not None:
            cause = describe_content_change(*found) if isinstance(found, tuple) else "the published version is outdated"
            self._noted.add(PUBLISH, declared.name, [published] if published else None, cause, condition=condition)

    def _plan_training(self, declared: Pipeline | Realtime, night: date) -> str:
        """Plan a training; returns the condition under which a new model scores, "" if there is no new one."""
        settings, name = self.settings, declared.name
        build = build_training_set if isinstance(declared, Pipeline) else load_hook(_EXAMPLES, "build_examples")
        found = find_stale_work(build, settings, declared, night, rebuild=self.rebuild)
        if isinstance(found, StaleWork):
            if isinstance(declared, Pipeline):
                days = sorted({day for some in as_of_dates(declared, night).values() for day in some})
                for view in declared.views:
                    if view.windows:
                        self._plan_tiles(view, days)
            self._noted.add_stale(found, rows=count_rows(settings, declared.all_sources, last=night))
            assume_done(found, declared.training_table)
            self._noted.causes.pending[declared.training_table] = "its training set is written again"
        plan = plan_training(settings, declared)
        text = training_inputs(
            declared, pinned_version(settings, declared), lanes=plan.lanes, precision=plan.training.precision
        )
        known = last_record(settings, TRAIN, name)
        if known is None or known.inputs != text:
            self._noted.add_stale(StaleWork(Stage(settings, TRAIN, name), {None: text}, {None: known}))
            version = max((each.version for each in self._list_models(declared)), default=0) + 1
            self._noted.add(REGISTER, name, None, "a new model is trained")
            self._noted.add(GATE, name, None, f"version {version} is new")
            return f"if version {version} passes the gate"
        return self._plan_gate(declared, text)

    def _plan_gate(self, declared: Pipeline | Realtime, training: str) -> str:
        """Plan the registration and the gate of a model that is trained already."""
        settings, name = self.settings, declared.name
        registered = newest_record(settings, REGISTER, name)
        if registered is None or not registered.inputs.startswith(training):
            self._noted.add(REGISTER, name, None, "its trained model is not registered")
            self._noted.add(GATE, name, None, "its version is new")
            return "if its new version passes the gate"
        champion = find_champion(settings, declared)
        version = model_version(settings, declared, int(registered.details["model_version"]))
        reason = outdated_reason(declared, version, champion.version if champion else None)
        if not reason:
            return ""
        self._noted.add(GATE, name, None, f"version {version.version}: {reason}")
        is_champion = champion is not None and champion.version == version.version
        return "" if is_champion else f"if version {version.version} passes the gate"

    def _plan_scores(self, declared: Pipeline, nights: Sequence[date], condition: str) -> None:
        if declared.is_joined:
            self._plan_features(declared, partial(build_joined, self.settings, declared), nights)
        scored, causes = list[date](), tuple[str, ...]()
        if not condition or any(CHAMPION in each.aliases for each in self._list_models(declared)):
            scored, causes = self._find_stale_scores(declared, nights, condition)
        if scored or not condition:
            self._plan_scores_of(declared, nights, scored, causes)
        if condition:
            self._noted.add(CALIBRATE, declared.name, None, _model_cause(condition), condition=condition)
            others = [night for night in nights if night not in scored]
            self._plan_scores_of(declared, nights, others, (_model_cause(condition),), condition)

    def _find_stale_scores(
        self, declared: Pipeline, nights: Sequence[date], condition: str
    ) -> tuple[list[date], tuple[str, ...]]:
        """The dates that the present model would score, and why."""
        settings, name = self.settings, declared.name
        if cause := self._assume_model(declared):
            return list(nights), (cause,)
        model = scoring_model(settings, declared)
        self.notes += find_other_features(settings, declared, model)
        note_kept_features(self._noted, declared, nights, self._views, condition)
        read = find_scored_pipeline(settings, declared, model)
        rebuilt = [night for night in nights if night in self._views[read.feature_table]]
        others, scored = [night for night in nights if night not in rebuilt], list(rebuilt)
        causes: tuple[str, ...] = ()
        found = find_stale_work(score_nights, settings, declared, others, rebuild=self.rebuild) if others else None
        if isinstance(found, StaleWork) and found.stage.name == SCORE:
            causes = self._noted.causes.find(found, rebuild=self.rebuild)
            scored += found.inputs
        elif isinstance(found, StaleWork):  # of the challenger alone
            self._noted.add_stale(found)
        if rebuilt:
            records = last_records(settings, FEATURES, read.feature_table.removeprefix(FEATURES_PREFIX), nights=rebuilt)
            texts = {night: night_inputs(read, model, records[night].delta_version) for night in rebuilt}
            before = last_records(settings, SCORE, name, nights=nights)
            causes += self._noted.causes.find(
                StaleWork(Stage(settings, SCORE, name), texts, before), rebuild=self.rebuild
            )
        if scored and not settings.scoring_batch_rows and self._is_uncalibrated(read, model):
            self._noted.add(CALIBRATE, name, None, "the batch size of its model and outputs is not measured yet")
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
        found = find_stale_work(scoring_model, self.settings, declared)
        if isinstance(found, StaleWork):
            self._noted.add_stale(found)
            assume_done(found, "")
        elif isinstance(found, WorkNeeded):
            cause = "a new version of its registered model is judged"
            self._noted.add("judge", declared.name, None, cause)
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
        self._noted.add(SCORE, declared.name, scored, *causes, condition=condition)
        if declared.shadow and is_installed("challengers") and self._has_challenger(declared):
            self._noted.add("score_challenger", declared.name, scored, *causes, condition=condition)
        if condition:
            self._noted.add(CHECK, table, scored, AGAIN, condition=condition)
        else:
            self._plan_check(table, checks.check_predictions, declared, nights, scored)
        is_there = table_exists(settings, table)
        again = f"the predictions of {declared.name} are written again"
        for check_scores in find_hooks("check_scores"):
            if scored:
                self._noted.add(DRIFT_STAGE, table, scored, again, condition=condition)
            elif is_there and find_stale_work(check_scores, self._run, declared, nights):
                self._noted.add(DRIFT_STAGE, table, nights, "its drift is not measured yet")
        if scored or not condition:
            self._plan_publish(declared, scored, condition)
        known = {*scored, *filter(None, last_records(settings, SCORE, declared.name))}
        beside = {newest, max((night for night in known if night < newest), default=newest)}
        for report_scores in find_hooks("report_scores"):
            if not beside.isdisjoint(scored):
                if declared.drift.report_rows:
                    self._noted.add("drift_report", declared.name, [newest], again, condition=condition)
            elif is_there and not condition:
                found = find_stale_work(report_scores, self._run, declared, newest)
                if isinstance(found, StaleWork):
                    self._noted.add_stale(found)

    def _has_challenger(self, declared: Pipeline) -> bool:
        return any(CHALLENGER in each.aliases for each in self._list_models(declared))

    def _plan_made(self, declared: NightlyDeclaration, nights: Sequence[date]) -> None:
        """Plan the tables of a declaration of a plug-in, such as a recommender."""
        stage = load_hook(declared.plugin, declared.stage)
        found = find_stale_work(stage, self.settings, declared, nights, rebuild=self.rebuild)
        written: list[date] = []
        if isinstance(found, StaleWork):
            rows = count_rows(self.settings, declared.all_sources, last=max(nights))
            written = self._noted.add_stale(found, rows=rows)
        for table in declared.tables:
            self._plan_check(table.prediction_table, checks.check_predictions, table, nights, written)
            assert isinstance(table, PluginTable)
            self._plan_publish(table, written)

    def _plan_release(self, declared: Realtime, condition: str) -> None:
        if condition:
            self._noted.add(RELEASE, declared.name, None, _model_cause(condition), condition=condition)
            return
        try:
            found = find_stale_work(release_model, self.settings, declared)
        except NotFoundError as error:
            self.blocked[declared.name] = str(error)
            return
        if isinstance(found, StaleWork):
            self._noted.add_stale(found)
        elif found is not None:
            self._noted.add(RELEASE, declared.name, None, "an earlier release becomes current again")


_EXAMPLES = "historical_features"
CALIBRATE = f"calibrate_{SCORE}"


def _model_cause(condition: str) -> str:
    return f"its model is {condition.removeprefix('if ').removesuffix(' passes the gate')}"
