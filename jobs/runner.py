"""Jobs run inside this process, against the Dagster instance that the UI reads; `forecache run` calls this.

Its stages are reported as they end, and the original error of a failure is raised.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime, timedelta, timezone
from typing import Any, Literal

import dagster as dg

from assets.stage import REBUILD_TAG
from forecache.base.errors import CheckError, ForecacheError, InputError, NotFoundError, PipelinesFailedError
from forecache.base.results import Progress, StageResult, no_progress
from forecache.base.settings import Settings
from forecache.declare import Pipeline, Realtime, Source
from forecache.declare.as_of import ScheduledDeclaration, as_of_range, newest_as_of
from forecache.declare.loading import load_nightly, read_project
from forecache.declare.project import Nightly
from jobs.definitions import build_definitions
from jobs.schedules import partition_tags
from resources.dagster_internals import (
    DagsterExecutionInterruptedError,
    InMemoryJob,
    LoadableTargetOrigin,
    ManagedGrpcPythonEnvCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
    execute_run_iterator,
)
from resources.instance import LOCATION, definitions_module, runner_instance
from resources.own_runs import process_tags, renew_heartbeat
from resources.session import RunSession, use_session

Job = Literal["nightly", "training", "ingest", "full"]
Nights = tuple[date, date]


def run(
    settings: Settings,
    *,
    pipelines: Sequence[str] = (),
    sources: Sequence[str] = (),
    nights: Nights | None = None,
    job: Job = "nightly",
    progress: Progress = no_progress,
    on_stage: Callable[[StageResult], None] = lambda result: None,
    rebuild: bool = False,
) -> list[StageResult]:
    """Run a job for pipelines, after ingesting the pending landing files of their sources.

    Args:
        sources: Landed sources to ingest, besides those of the pipelines.
        nights: First and last as-of date; None: the newest one. Training takes the last. With job "ingest" they are
            landing days, and None means all.
        on_stage: Called as each stage ends.
        rebuild: Also build, train and score what is up to date; with job "ingest", query databases again for the days.

    Raises:
        PipelinesFailed: Some of several pipelines failed; the others ran to their end.
        ForecacheError: A stage or a blocking check of the only pipeline or source failed. Earlier stages stay done.
    """
    chosen = [load_nightly(settings, name) for name in pipelines]
    landed = [read_project(settings).landed_sources[name] for name in sources]
    if not chosen and not landed:
        return []
    failures: dict[str, BaseException] = {}
    spans: dict[str, Nights] = {}
    for pipeline in chosen if job != "ingest" else ():
        with _collect_error(failures, pipeline.name):
            spans[pipeline.name] = _as_of_span(pipeline, nights)
    num_chosen = len(chosen) + len(landed)
    if len(failures) < num_chosen:
        session = RunSession(settings, progress, on_stage)
        _run_all(session, chosen, landed, spans, failures, nights=nights, job=job, rebuild=rebuild)
    if failures and num_chosen == 1:
        raise next(iter(failures.values()))
    if failures:
        raise PipelinesFailedError(failures, of=num_chosen)
    return session.results


def _run_all(
    session: "RunSession",
    chosen: Sequence[Nightly],
    landed: Sequence[Source],
    spans: Mapping[str, Nights],
    failures: dict[str, BaseException],
    *,
    nights: Nights | None,
    job: Job,
    rebuild: bool,
) -> None:
    """Ingest every source and run every pipeline; a failure is collected, and stops only what depends on it."""
    from resources.own_runs import close_abandoned_runs

    session.progress("starting Dagster", None)
    with runner_instance(session.settings) as instance:
        runner = JobRunner(session.settings, instance, session)
        close_abandoned_runs(instance)
        own = {s.name: s for pipeline in chosen for s in pipeline.all_sources if isinstance(s, Source)}
        own |= {source.name: source for source in landed}
        of_follow_ups = {source.name: source for source in _follow_up_sources(session.settings, chosen)}
        unread: dict[str, BaseException] = {}
        for source in own.values():
            with _collect_error(unread, source.name):
                only = job == "ingest"
                days = nights if only else None
                _ingest_source(session.settings, runner, source, days=days, rebuild=rebuild and only)
        failures.update({source.name: unread[source.name] for source in landed if source.name in unread})
        for name in of_follow_ups.keys() - own.keys():
            with _collect_error(failures, name):
                _ingest_source(session.settings, runner, of_follow_ups[name], days=None)
        for pipeline in chosen:
            lacking = [unread[source.name] for source in pipeline.all_sources if source.name in unread]
            with _collect_error(failures, pipeline.name):
                if lacking:
                    raise lacking[0]
                if pipeline.name in spans:
                    own_job = _choose_job(session.settings, pipeline, job)
                    runner.run_job(
                        f"{own_job}_{pipeline.name}",
                        nights=spans[pipeline.name],
                        config=_run_config(pipeline, own_job, spans),
                        rebuild=rebuild,
                    )


def _follow_up_sources(settings: Settings, chosen: Sequence[Nightly]) -> list[Source]:
    """The landed sources of what follows some pipelines, such as the addresses of mailings."""
    names = {pipeline.name for pipeline in chosen}
    follow_ups = read_project(settings).follow_ups
    return [source for each in follow_ups if each.pipeline.name in names for source in each.landed_sources]


@contextmanager
def _collect_error(failures: dict[str, BaseException], name: str) -> Iterator[None]:
    """Collect an error of the block under a name and continue; an interrupt ends everything."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  (whatever it is, it is raised at the end)
        failures[name] = error


def _ingest_source(
    settings: Settings, runner: "JobRunner", source: Source, *, days: Nights | None, rebuild: bool = False
) -> None:
    """Run once for each range of days with something new, else once for the last day, which records that."""
    from assets.sources import landing_events
    from forecache.lake.ingest.ingested_files import day_ranges, pending_days, pending_files
    from forecache.lake.ingest.landing import list_landing
    from forecache.lake.quality.pending_files import days_to_extract
    from jobs.ingest import ingest_job_name

    first, last = days or (source.start, source.end or _yesterday())
    _require_within(f"source {source.name!r}", (first, last), source.start, source.end)
    landed = list_landing(settings, source)
    if landed:
        for event in landing_events(source, landed):
            runner.instance.report_runless_asset_event(event)
    waiting = pending_days(pending_files(settings, source, landed=landed), first=first, last=last)
    waiting |= set(days_to_extract(settings, source, first=first, last=last))
    ranges = day_ranges(waiting, others={file.day for file in landed})
    spans = [(first, last)] if rebuild else ranges or [(last, last)]
    for span in spans:
        runner.run_job(ingest_job_name(source), nights=span, rebuild=rebuild)


def _choose_job(settings: Settings, declared: Nightly, job: Job) -> Job:
    """Choose the job: "nightly" for a declaration without training, "full" for a real-time model without a champion."""
    if not isinstance(declared, (Pipeline, Realtime)) or not declared.is_trained:
        return "nightly"
    if job != "nightly" or isinstance(declared, Pipeline):
        return job
    from forecache.models.registry.model_versions import find_champion

    return "nightly" if find_champion(settings, declared) else "full"


def _run_config(declared: Nightly, job: Job, spans: Mapping[str, Nights]) -> dict[str, object]:
    if job != "training" or not isinstance(declared, (Pipeline, Realtime)):
        return {}
    night = spans[declared.name][1].isoformat()
    return {"ops": {declared.training_table: {"config": {"night": night}}}}


def _as_of_span(pipeline: ScheduledDeclaration, nights: Nights | None) -> Nights:
    """First and last of the requested as-of dates; by default the newest one."""
    newest = newest_as_of(pipeline)
    return as_of_range(pipeline, *(nights or (newest, newest)))


def _require_within(owner: str, span: Nights, start: date, end: date | None) -> None:
    newest = end or _yesterday()
    for night in span:
        if not start <= night <= newest:
            raise InputError(
                f"The night {night} lies outside {owner}.", remedy=f"Its nights go from {start} to {newest}."
            )


def _yesterday() -> date:
    return datetime.now(timezone.utc).date() - timedelta(days=1)


_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


class JobRunner:
    """Runs jobs of the project one after the other and reports their stages to a session."""

    def __init__(self, settings: Settings, instance: dg.DagsterInstance, session: RunSession) -> None:
        self.instance = instance
        self._session = session
        self._repository = build_definitions(settings).get_repository_def()

    def run_job(
        self,
        job_name: str,
        *,
        nights: tuple[date, date] | None,
        config: Mapping[str, Any] | None = None,
        rebuild: bool = False,
    ) -> None:
        """Run a job for a range of as-of dates in one run, or without dates."""
        job = self._repository.get_job(job_name)
        run = self.instance.create_run_for_job(
            job,
            run_config={**_QUIET, **(config or {})},
            tags={
                **process_tags(),
                **(partition_tags(*nights) if nights else {}),
                **({REBUILD_TAG: "true"} if rebuild else {}),
            },
            remote_job_origin=self._job_origin(job_name),
        )
        self._session.error, self._session.objections = None, []

        def report_wait(message: str) -> None:
            self._session.progress(message, None)

        with use_session(self._session), renew_heartbeat(self.instance, run.run_id, report_wait):
            events = list(execute_run_iterator(InMemoryJob(job), run, self.instance))
        finished = self.instance.get_run_by_id(run.run_id)
        assert finished is not None
        if _was_interrupted(events):
            raise KeyboardInterrupt
        if finished.status != dg.DagsterRunStatus.SUCCESS:
            raise self._failure_cause() or _run_failure_error(job_name, run.run_id, events)

    def _job_origin(self, job_name: str) -> RemoteJobOrigin:
        """The job's origin in the workspace, so that the UI links the run to the job."""
        target = LoadableTargetOrigin(module_name=definitions_module(self._session.settings))
        location = ManagedGrpcPythonEnvCodeLocationOrigin(target, location_name=LOCATION)
        return RemoteJobOrigin(RemoteRepositoryOrigin(location, self._repository.name), job_name)

    def _failure_cause(self) -> Exception | None:
        """The error that made the run fail; if the gate rejected the only model, that rejection."""
        error, objections = self._session.error, self._session.objections
        if isinstance(error, NotFoundError) and objections:
            return CheckError(f"{objections[0].rstrip('.')}.", remedy=f"And so: {error}")
        return error


def _event_errors(events: list[dg.DagsterEvent]) -> list[Any]:
    errors = [getattr(event.event_specific_data, "error", None) for event in events if event.is_failure]
    return [error for error in errors if error]


def _was_interrupted(events: list[dg.DagsterEvent]) -> bool:
    return any(error.cls_name == DagsterExecutionInterruptedError.__name__ for error in _event_errors(events))


def _run_failure_error(job_name: str, run_id: str, events: list[dg.DagsterEvent]) -> ForecacheError:
    """The error of a failure outside any stage, such as a wrong run configuration, with Dagster's reason."""
    reasons = [error.message.strip().splitlines()[0] for error in _event_errors(events)]
    return ForecacheError(
        f"The run {run_id} of {job_name} failed: {reasons[-1] if reasons else 'without a reason given'}.",
        remedy="`forecache dev` shows its log.",
    )
