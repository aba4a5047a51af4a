"""Jobs run inside this process, against the Dagster instance that the UI reads; `forecache run` calls this.

Its stages are reported as they end, and the original error of a failure is raised.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from functools import partial
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.stage import REBUILD_TAG
from forecache.base.errors import CheckError, ForecacheError, NotFoundError
from forecache.base.results import Progress, StageResult, no_progress
from forecache.base.settings import Settings
from forecache.declare import Pipeline, Realtime, Source
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

if TYPE_CHECKING:
    from forecache.base.dates import Nights
    from forecache.lake.ingest.landing import LandingFile
    from forecache.runs import Job


def run(
    settings: Settings,
    *,
    progress: Progress = no_progress,
    on_stage: Callable[[StageResult], None] = lambda result: None,
    **asked: Any,
) -> list[StageResult]:
    """Run jobs by Dagster as `forecache.runs.run_jobs` does; `asked` are the fields of a `RunRequest`.

    `on_stage` is called as each stage ends.
    """
    from forecache.runs import RunRequest, run_jobs

    session = RunSession(settings, progress, on_stage)
    run_jobs(settings, RunRequest(**asked), partial(_open_runner, session))
    return session.results


@contextmanager
def _open_runner(session: RunSession) -> "Iterator[JobRunner]":
    from resources.own_runs import close_abandoned_runs

    session.progress("starting Dagster", None)
    with runner_instance(session.settings) as instance:
        runner = JobRunner(session.settings, instance, session)
        close_abandoned_runs(instance)
        yield runner


_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


class JobRunner:
    """Runs jobs of the project one after the other and reports their stages to a session."""

    def __init__(self, settings: Settings, instance: dg.DagsterInstance, session: RunSession) -> None:
        self.instance = instance
        self._session = session
        self._noted = set[str]()  # sources whose landing files were recorded
        self._repository = build_definitions(settings).get_repository_def()

    def ingest(self, source: Source, days: "Nights", landed: "Sequence[LandingFile]", *, rebuild: bool) -> None:
        """Record what has landed, and run the source's job for a range of days."""
        from assets.sources import landing_events
        from jobs.ingest import ingest_job_name

        if landed and source.name not in self._noted:
            self._noted.add(source.name)
            for event in landing_events(source, landed):
                self.instance.report_runless_asset_event(event)
        self.run_job(ingest_job_name(source), nights=days, rebuild=rebuild)

    def run(self, declared: Nightly, job: "Job", nights: "Nights", *, rebuild: bool) -> None:
        """Run a job of a declaration for a range of as-of dates."""
        config: dict[str, Any] = {}
        if job == "training" and isinstance(declared, (Pipeline, Realtime)):
            config = {"ops": {declared.training_table: {"config": {"as_of": nights[1].isoformat()}}}}
        self.run_job(f"{declared.name}_{job}", nights=nights, config=config, rebuild=rebuild)

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
