"""Runs of jobs: pending landing files are ingested, then each declaration runs; a failure stops what depends on it.

An executor carries the jobs out: this process or an orchestrator. Before either starts, `look_for_work` tells if there
is anything to do, in a fraction of the time that an orchestrator takes to start: it goes through the same stages in a
mode in which whatever would write stops it.
"""

import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from importlib.util import find_spec
from typing import Any, Literal, Protocol

from forecache.base.dates import Nights
from forecache.base.errors import PASSING, RETRY_AFTER_S, CheckError, InputError, NotFoundError, PipelinesFailedError
from forecache.base.plugins import find_hooks
from forecache.base.results import Progress, StageResult, no_progress
from forecache.base.settings import Settings
from forecache.base.steps import WorkNeeded, begin_work, is_looking, only_look
from forecache.declare import FeatureView, Pipeline, Realtime, Source
from forecache.declare.as_of import ScheduledDeclaration, as_of_range, newest_as_of
from forecache.declare.loading import load_nightly, read_project
from forecache.declare.project import Nightly
from forecache.declare.served import NightlyDeclaration
from forecache.kit.process.child import interrupt_at_sigterm
from forecache.lake.engine import find_spark_functions
from forecache.lake.ingest.ingest import ingest
from forecache.lake.ingest.ingested_files import day_ranges, ingested_files, pending_days, pending_files
from forecache.lake.ingest.landing import LandingFile, list_landing
from forecache.lake.quality.pending_files import ProcessRun, check_raw_days, days_to_extract, extract_days
from forecache.lake.quality.raw_days import raw_verdicts
from forecache.models.registry.model_versions import find_champion
from forecache.night import Trains, run_declaration

Job = Literal["nightly", "training", "ingest", "full"]
_TRAINS: Mapping[Job, Trains] = {"nightly": "never", "training": "only", "full": "first"}


@dataclass(frozen=True)
class RunRequest:
    """A run that is asked for.

    Attributes:
        pipelines: Names of declarations with a nightly run.
        sources: Landed sources to ingest, besides those of the pipelines.
        nights: First and last as-of date; None: the newest one. Training takes the last. With job "ingest" they are
            landing days, and None means all.
        rebuild: Also build, train and score what is up to date; with job "ingest", query databases again for the days.
    """

    pipelines: Sequence[str] = ()
    sources: Sequence[str] = ()
    nights: Nights | None = None
    job: Job = "nightly"
    rebuild: bool = False


class Executor(Protocol):
    """The carrier of the jobs of a run."""

    def ingest(self, source: Source, days: Nights, landed: Sequence[LandingFile], *, rebuild: bool) -> None:
        """Ingest and check a range of days; `landed` are all landing files of the source."""

    def run(self, declared: Nightly, job: Job, nights: Nights, *, rebuild: bool) -> None:
        """Run a job of a declaration for a range of days."""


class ProcessExecutor:
    """Carries jobs out in this process, without an orchestrator."""

    def __init__(self, run: ProcessRun) -> None:
        self._run = run

    def ingest(self, source: Source, days: Nights, landed: Sequence[LandingFile], *, rebuild: bool) -> None:
        self._carry_out(f"{source.name}_ingest", days, lambda: self._ingest(source, days, rebuild=rebuild))

    def run(self, declared: Nightly, job: Job, nights: Nights, *, rebuild: bool) -> None:
        wanted = declared.schedule.as_of_dates(*nights)
        self._run.rebuild = rebuild
        self._carry_out(
            f"{declared.name}_{job}", nights, lambda: run_declaration(self._run, declared, wanted, trains=_TRAINS[job])
        )

    def _ingest(self, source: Source, days: Nights, *, rebuild: bool) -> None:
        run, settings = self._run, self._run.settings
        some = [days[0] + timedelta(number) for number in range((days[1] - days[0]).days + 1)]
        extract_days(run, source, some, rebuild=rebuild)
        correctable = some if source.extract else raw_verdicts(settings, source).refused_days
        run.run_stage(ingest, settings, source, days=some, correctable=correctable)
        run.report_progress(f"checking {source.raw_table}")
        files = ingested_files(settings, source)
        found = check_raw_days(run, source, some, files)
        run.note_raw_checks(source, found, files)
        for day, reason in sorted(found.refusals.items()):
            raise CheckError(reason, remedy=f"Correct the landing files of {day}, and run again.")

    def _carry_out(self, job_name: str, nights: Nights, work: Callable[[], None]) -> None:
        """Do the work, again after an error that may be over after a while, and report how the run ended."""
        run = self._run
        run.run_id, run.job_name, run.nights = str(uuid.uuid4()), job_name, nights
        run.objections, run.checks = [], {}
        try:
            for pause_s in () if is_looking() else RETRY_AFTER_S:
                try:
                    work()
                    break
                except PASSING as error:
                    run.progress(f"{error} It is tried again in {pause_s:g} s", None)
                    time.sleep(pause_s)
            else:
                work()
        except Exception as error:
            self._report(error)
            if isinstance(error, NotFoundError) and run.objections:  # no model passed the gate
                remedy = "Change data, model or gate. `forecache models evaluate` judges a version again by a new gate."
                message = f"{run.objections[0].rstrip('.')}. So: {error.message}"
                raise CheckError(message, remedy=remedy) from error
            raise
        self._report(None)

    def _report(self, error: Exception | None) -> None:
        run = self._run
        for report_run in () if error is not None and is_looking() else find_hooks("report_run"):
            report_run(run.settings, run.job_name, run.nights, run.run_id, run.checks, error)


def reason_without_orchestrator(settings: Settings, request: RunRequest) -> str:
    """The reason why this process carries a run out, in a few words; "" if an orchestrator is started for it.

    Dagster takes longer to start than a small night takes without Spark.
    """
    if find_spec("dagster") is None:
        return "Dagster is not installed"
    nightly, sources = read_project(settings).nightly, {*request.sources}
    of_sources = (each for each in nightly.values() if sources & {source.name for source in each.all_sources})
    chosen = [*(load_nightly(settings, name) for name in request.pipelines), *of_sources]
    jobs = ((each, choose_job(settings, each, request.job)) for each in chosen)
    if settings.engine == "spark" or any(_find_spark_functions(each, job) for each, job in jobs):
        return ""
    return "no stage needs Spark"


def _find_spark_functions(declared: Nightly, job: Job) -> list[str]:
    """The functions that the stages of a job call on Spark's frames."""
    if isinstance(declared, NightlyDeclaration):
        return []
    functions: list[Any] = []
    if isinstance(declared, Pipeline) and declared.entities is not None:
        functions.append(declared.entities.compute)
    if job in ("training", "full") and isinstance(declared, Pipeline | Realtime) and declared.is_trained:
        of = declared.trained_label if isinstance(declared, Pipeline) else declared.trained_examples
        functions.append(of.compute)
    return find_spark_functions((declared,) if isinstance(declared, FeatureView) else declared.views, *functions)


def look_for_work(settings: Settings, request: RunRequest) -> list[StageResult] | None:
    """Go through the stages of a run without doing anything; None if one has something to do, or raises an error.

    Training runs whenever it is asked for, and is not looked at.
    """
    if request.rebuild or request.job not in ("nightly", "ingest"):
        return None
    run = ProcessRun(settings)
    with only_look() as has_work:
        try:
            run_jobs(settings, request, lambda: nullcontext(ProcessExecutor(run)))
        except (WorkNeeded, Exception):  # noqa: BLE001  (the run meets the error again, and reports it)
            return None
        return None if has_work() else run.results


def run_in_process(
    settings: Settings,
    request: RunRequest,
    *,
    progress: Progress = no_progress,
    on_stage: Callable[[StageResult], None] = lambda result: None,
) -> list[StageResult]:
    """Run what is asked for without an orchestrator; raises as `run_jobs`."""
    run = ProcessRun(settings, progress, on_stage=on_stage)
    with interrupt_at_sigterm():
        run_jobs(settings, request, lambda: nullcontext(ProcessExecutor(run)))
    return run.results


def run_jobs(
    settings: Settings, request: RunRequest, open_executor: Callable[[], AbstractContextManager[Executor]]
) -> None:
    """Run what is asked for, after ingesting the pending landing files of its sources.

    Raises:
        PipelinesFailedError: Some of several pipelines failed; the others ran to their end.
        ForecacheError: A stage or a blocking check of the only pipeline or source failed. Earlier stages stay done.
    """
    chosen = [load_nightly(settings, name) for name in request.pipelines]
    landed = [read_project(settings).landed_sources[name] for name in request.sources]
    failures: dict[str, BaseException] = {}
    spans: dict[str, Nights] = {}
    for declared in chosen if request.job != "ingest" else ():
        with _collect_error(failures, declared.name):
            spans[declared.name] = as_of_span(declared, request.nights)
    num_chosen = len(chosen) + len(landed)
    if len(failures) < num_chosen:
        with open_executor() as executor:
            _run_all(settings, request, executor, chosen, landed, spans, failures)
    if failures and num_chosen == 1:
        raise next(iter(failures.values()))
    if failures:
        raise PipelinesFailedError(failures, of=num_chosen)


def _run_all(
    settings: Settings,
    request: RunRequest,
    executor: Executor,
    chosen: Sequence[Nightly],
    landed: Sequence[Source],
    spans: Mapping[str, Nights],
    failures: dict[str, BaseException],
) -> None:
    """Ingest every source and run every declaration; a failure is collected, and stops only what depends on it."""
    own = {s.name: s for declared in chosen for s in declared.all_sources if isinstance(s, Source)}
    own |= {source.name: source for source in landed}
    unread: dict[str, BaseException] = {}
    for source in own.values():
        with _collect_error(unread, source.name):
            is_asked = request.job == "ingest"
            days = request.nights if is_asked else None
            _ingest_source(settings, executor, source, days=days, rebuild=request.rebuild and is_asked)
    failures.update({source.name: unread[source.name] for source in landed if source.name in unread})
    for source in find_follow_up_sources(settings, chosen):
        if source.name not in own:
            with _collect_error(failures, source.name):
                _ingest_source(settings, executor, source, days=None)
    for declared in chosen:
        lacking = [unread[source.name] for source in declared.all_sources if source.name in unread]
        with _collect_error(failures, declared.name):
            if lacking:
                raise lacking[0]
            if declared.name in spans:
                job = choose_job(settings, declared, request.job)
                executor.run(declared, job, spans[declared.name], rebuild=request.rebuild)


def find_follow_up_sources(settings: Settings, chosen: Sequence[Nightly]) -> list[Source]:
    """The landed sources of what follows some declarations, such as the addresses of mailings."""
    names = {declared.name for declared in chosen}
    follow_ups = read_project(settings).follow_ups
    sources = (source for each in follow_ups if each.pipeline.name in names for source in each.landed_sources)
    return list({source.name: source for source in sources}.values())


@contextmanager
def _collect_error(failures: dict[str, BaseException], name: str) -> Iterator[None]:
    """Collect an error of the block under a name and continue; an interrupt ends everything."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  (whatever it is, it is raised at the end)
        failures[name] = error


def _ingest_source(
    settings: Settings, executor: Executor, source: Source, *, days: Nights | None, rebuild: bool = False
) -> None:
    """Ingest each range of days with something new, else the last day, which records that there was nothing."""
    first, last = days or (source.start, source.end or _yesterday())
    _require_within(f"source {source.name!r}", (first, last), source.start, source.end)
    landed = list_landing(settings, source)
    waiting = pending_days(pending_files(settings, source, landed=landed), first=first, last=last)
    waiting |= set(days_to_extract(settings, source, first=first, last=last))
    if waiting:
        begin_work(f"ingesting {source.name}")
    ranges = day_ranges(waiting, others={file.day for file in landed})
    for span in [(first, last)] if rebuild else ranges or [(last, last)]:
        executor.ingest(source, span, landed, rebuild=rebuild)


def choose_job(settings: Settings, declared: Nightly, job: Job) -> Job:
    """Choose the job: "nightly" for a declaration without training, "full" for a real-time model without a champion."""
    if not isinstance(declared, (Pipeline, Realtime)) or not declared.is_trained:
        return "nightly"
    if job != "nightly" or isinstance(declared, Pipeline):
        return job
    return "nightly" if find_champion(settings, declared) else "full"


def as_of_span(declared: ScheduledDeclaration, nights: Nights | None) -> Nights:
    """First and last of the requested as-of dates; by default the newest one."""
    newest = newest_as_of(declared)
    return as_of_range(declared, *(nights or (newest, newest)))


def _require_within(owner: str, span: Nights, start: date, end: date | None) -> None:
    newest = end or _yesterday()
    for night in span:
        if not start <= night <= newest:
            raise InputError(
                f"The date {night} lies outside {owner}.", remedy=f"Its dates go from {start} to {newest}."
            )


def _yesterday() -> date:
    return datetime.now(timezone.utc).date() - timedelta(days=1)


def run_night(settings: Settings, night: date | None = None, progress: Progress = no_progress) -> list[StageResult]:
    """Run all that a project declares for an as-of date (default: the newest of each), trained where that is due.

    Raises:
        PipelinesFailedError: Some failed, with the error of each; the others ran to their end.
    """
    run, project = ProcessRun(settings, progress), read_project(settings)
    failures: dict[str, BaseException] = {**project.broken}
    for name, declared in project.nightly.items():
        with _collect_error(failures, name):
            run_declaration(run, declared, [night or newest_as_of(declared)])
    if failures:
        raise PipelinesFailedError(failures, of=len(project.nightly.keys() | failures))
    return run.results
