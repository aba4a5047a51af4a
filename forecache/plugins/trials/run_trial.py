"""The run of a trial: only what differs from the environment that it defers to, by the runs that every night is."""

import re
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import date
from typing import Any

from forecache.base.dates import Nights
from forecache.base.errors import PipelinesFailedError
from forecache.base.results import Progress, StageResult, no_progress
from forecache.base.settings import Settings, trial_settings
from forecache.base.steps import WorkNeeded, only_look, try_step
from forecache.declare import FeatureView, Pipeline, Realtime
from forecache.declare.as_of import newest_as_of
from forecache.declare.loading import read_project
from forecache.declare.project import Nightly
from forecache.declare.served import NightlyDeclaration
from forecache.lake.ledger import LEDGER_TABLE, last_record, newest_night, records_after
from forecache.lake.quality.pending_files import ProcessRun
from forecache.lake.training_set import STAGE as TRAINING_SET
from forecache.models.training.launch import STAGE as TRAIN
from forecache.plugins.trials.trial import Trial, fork, hold_trial, read_trial, remove
from forecache.runs import Job, ProcessExecutor, RunRequest, run_in_process, run_jobs

_STAGES = ("score", "features", "recommend")
_FOLLOWING = (
    "forecache.operations.publish_night",
    "forecache.plugins.drift.sampled_report",
)
"""Modules of stages that write no table, but what is served or shown of one, and which the fork does not have."""


@dataclass(frozen=True)
class TrialRun:
    """A trial that this process holds, with its settings."""

    settings: Settings
    trial: Trial


@contextmanager
def open_trial(
    base: Settings, name: str, *, fresh: bool = False, progress: Progress = no_progress
) -> Iterator[TrialRun]:
    """Hold a trial during the block; it is made if there is none, or with `fresh`.

    Another process that has it is waited for.
    """

    def wait(holder: str) -> None:
        progress(f"waiting for {holder}", None)

    if fresh and trial_settings(base, name).home_path.is_dir():
        remove(base, name)
    with hold_trial(base, name, "tries", waiting=wait):
        try_step("locked")
        made = read_trial(trial_settings(base, name))
        if made is None:
            progress(f"forking {base.env or 'this installation'}", None)
            made = fork(base, name)
        yield TrialRun(trial_settings(base, name), made)


class _ComputeLook(ProcessRun):
    """A look for what would be computed: what only follows from it, as publishing does, is not looked at."""

    def run_stage(self, stage: Callable[..., StageResult], *arguments: Any, **more: Any) -> StageResult:
        try:
            return super().run_stage(stage, *arguments, **more)
        except WorkNeeded:
            if stage.__module__ in _FOLLOWING:
                return StageResult(stage.__name__, "", 0, 0.0, skipped=True)
            raise


def differs(settings: Settings, name: str, nights: Nights) -> bool:
    """Tell if a nightly run of a pipeline would compute anything in a trial, and not only read it."""
    look = _ComputeLook(settings)
    with only_look():
        try:
            run_jobs(settings, RunRequest([name], nights=nights), lambda: nullcontext(ProcessExecutor(look)))
        except (WorkNeeded, Exception):  # noqa: BLE001  (the run meets the error again, and reports it)
            return True
    return False


def trains_otherwise(settings: Settings, declared: Nightly) -> bool:
    """Tell if the declaration or the code of a training set or a training has changed since the last one."""
    if not isinstance(declared, Pipeline | Realtime) or not declared.is_trained:
        return False
    of_set = f"label={declared.fingerprints.training_set}"
    if isinstance(declared, Realtime):
        of_set = f"examples={declared.examples_fingerprint}"
    wanted = {TRAINING_SET: of_set, TRAIN: f"declared={declared.fingerprints.training}"}
    rows = {stage: last_record(settings, stage, declared.name) for stage in wanted}
    return any(row is not None and wanted[stage] not in row.inputs.split() for stage, row in rows.items())


def choose(
    run: TrialRun, names: Sequence[str], ranges: Sequence[Nights] | None, job: Job
) -> dict[str, tuple[Nights, ...]]:
    """The pipelines to run with their dates: those that differ, of the names or else of all; to train, all the names,
    or else also those that would be trained otherwise.

    Those that an earlier run computed something of in the trial are among them: it may have been killed before it
    published. Without dates, a pipeline runs for the newest date that the environment that is deferred to has.
    """
    settings = run.settings
    assert settings.base is not None
    project = read_project(settings)
    if project.broken and not names:
        raise PipelinesFailedError(project.broken, of=len(project.nightly.keys() | project.broken))
    spans = {
        name: tuple(ranges or [(_newest(settings.base, project.nightly[name]),) * 2])
        for name in names or project.nightly
    }
    is_training = bool(names) and job != "nightly"
    recorded = records_after(settings, run.trial.tables.get(LEDGER_TABLE, -1))
    computed = {row.subject for row in recorded}
    chosen = {
        name: span
        for name, span in spans.items()
        if is_training
        or (job != "nightly" and trains_otherwise(settings, project.nightly[name]))
        or computed & _subjects(project.nightly[name])
        or any(differs(settings, name, nights) for nights in span)
    }
    try_step("chosen")
    return chosen


def _newest(base: Settings, declared: Nightly) -> date:
    """The newest date that an environment has of a declaration, else the newest one that it may have."""
    found = [newest_night(base, stage, subject) for stage in _STAGES for subject in _subjects(declared)]
    return max((night for night in found if night is not None), default=newest_as_of(declared))


def _subjects(declared: Nightly) -> set[str]:
    """Names under which the ledger has the stages of a declaration."""
    if isinstance(declared, NightlyDeclaration):
        return {declared.name, *(table.name for table in declared.tables)}
    return {declared.name} if isinstance(declared, FeatureView) else {declared.name, *(v.name for v in declared.views)}


def group_by_dates(chosen: Mapping[str, tuple[Nights, ...]]) -> dict[tuple[Nights, ...], list[str]]:
    """The names of pipelines by the dates that they run for."""
    grouped: dict[tuple[Nights, ...], list[str]] = {}
    for name, span in chosen.items():
        grouped.setdefault(span, []).append(name)
    return grouped


def run_trial(
    run: TrialRun,
    chosen: Mapping[str, tuple[Nights, ...]],
    job: Job,
    *,
    progress: Progress = no_progress,
    on_stage: Callable[[StageResult], None] = lambda result: None,
) -> list[StageResult]:
    """Run pipelines in a trial, in this process; raises as `forecache.runs.run_jobs`."""
    results: list[StageResult] = []
    failures: dict[str, BaseException] = {}
    for span, names in group_by_dates(chosen).items():
        for nights in span:
            request = RunRequest([name for name in names if name not in failures], nights=nights, job=job)
            if not request.pipelines:
                break
            try:
                results += run_in_process(run.settings, request, progress=progress, on_stage=on_stage)
            except PipelinesFailedError as error:
                failures |= error.failures
            except Exception as error:  # noqa: BLE001  (the others run, and it is raised at the end)
                failures |= dict.fromkeys(request.pipelines, error)
    try_step("ran")
    if failures and len(chosen) == 1:
        raise next(iter(failures.values()))
    if failures:
        raise PipelinesFailedError(failures, of=len(chosen))
    return results


def default_name() -> str:
    """Name of a trial: the branch of git that is checked out, else "trial"."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "--abbrev-ref", "HEAD"], capture_output=True, text=True, check=False, timeout=5
        )
        branch = re.sub(r"[^A-Za-z0-9_.-]+", "-", done.stdout.strip() if done.returncode == 0 else "").strip("-._")[:60]
    except (OSError, subprocess.SubprocessError):
        branch = ""
    return "trial" if branch in ("", "HEAD") else branch
