"""The job of Dagster for a backfill: dates that need not follow each other, or that failed a check, within a budget.

A backfill that a person starts at an asset chooses partitions, too; this job has what that lacks.
"""

from collections.abc import Iterator
from typing import Any

import dagster as dg
from pydantic import Field

from assets.stage import RunStep, explain_errors
from forecache.base.dates import parse_ranges
from forecache.base.results import StageResult
from forecache.declare.loading import load_nightly
from jobs.schedules import build_op_job
from resources.settings_resource import SettingsResource


class BackfillConfig(dg.Config):
    """Configuration of a backfill."""

    pipelines: list[str] = Field(description="Names of pipelines, views, recommenders or real-time models.")
    dates: str = Field("", description="Dates and ranges with commas: 2026-01-01,2026-01-05..2026-01-09.")
    failed: bool = Field(False, description="Only dates that failed their last check.")
    made_by: str = Field("", description="Only dates whose rows this code version made, given by its first letters.")
    max_core_hours: float = Field(0.0, ge=0, description="Begin no date once so many are used; 0: no limit.")
    rebuild: bool = Field(False, description="Build and score again what is up to date, too.")


def build_backfill_job() -> dg.JobDefinition:
    """Run the nightly job of some pipelines for chosen dates, each range or, with a budget, each date as a run."""

    @dg.op(name="run_dates", description=BackfillConfig.__doc__)
    @explain_errors
    def run_dates(
        context: dg.OpExecutionContext, config: BackfillConfig, settings: SettingsResource
    ) -> Iterator[dg.Output[Any]]:
        yield dg.Output(None, metadata=_run_dates(RunStep(context, settings.load()), config))

    about = "Nightly runs for chosen dates of some pipelines, one after the other; what is done stays."
    return build_op_job(run_dates, "backfill", about)


def _run_dates(step: RunStep, config: BackfillConfig) -> dict[str, Any]:
    from forecache.operations.backfill import BackfillRun, BudgetSpentError, DateChoice, run_backfill
    from jobs.runner import run

    settings, results = step.settings, list[StageResult]()
    ranges = parse_ranges(config.dates) if config.dates else []
    choice = DateChoice(ranges, config.failed, config.made_by, one_by_one=config.max_core_hours > 0)
    runs = choice.list_runs(settings, [load_nightly(settings, name) for name in config.pipelines])

    def run_once(chosen: BackfillRun) -> None:
        # In this process; the UI shows each as a run of its own.
        asked = {"pipelines": list(chosen.names), "nights": chosen.nights, "rebuild": config.rebuild}
        results.extend(run(settings, progress=step.progress, **asked))

    stopped = ""
    try:
        run_backfill(settings, runs, run_once, max_core_hours=config.max_core_hours or None, progress=step.progress)
    except BudgetSpentError as error:
        stopped = str(error)
        step.report_progress(stopped)
    worked = [result for result in results if not result.skipped]
    return {"runs": len(runs), "stages that worked": len(worked), "stopped": stopped or "no, all is done"}
