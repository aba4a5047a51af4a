"""The jobs that train a pipeline's model, the first run with all stages, and the approval of a waiting model."""

from collections.abc import Iterator
from typing import Any, Literal

import dagster as dg
from pydantic import Field

from assets.model import candidate_name, model_name
from assets.stage import explain_errors
from assets.views import verdict_view
from forecache.declare import Pipeline, Trainable
from jobs.nightly import nightly_selection
from jobs.schedules import AssetJob, build_asset_job, build_cron_schedule, build_op_job
from resources.settings_resource import SettingsResource


def training_job_name(pipeline: Trainable) -> str:
    return f"{pipeline.name}_training"


def training_selection(pipeline: Trainable) -> dg.AssetSelection:
    return dg.AssetSelection.assets(pipeline.training_table, candidate_name(pipeline), model_name(pipeline))


def build_training_job(pipeline: Pipeline) -> AssetJob:
    """Train as of the newest date, or of the date in the configuration of the training set."""
    about = f"Train {pipeline.name}, register the model and let the gate decide."
    return build_asset_job(training_job_name(pipeline), about, training_selection(pipeline))


def build_training_schedule(pipeline: Trainable, job: AssetJob) -> dg.ScheduleDefinition:
    """The training times of the pipeline's schedule, as of its newest as-of date."""
    schedule = pipeline.schedule
    about = f"{schedule.training} ({schedule.time_zone}): train {pipeline.name} anew."
    return build_cron_schedule(job, schedule.training, about, time_zone=schedule.time_zone)


def full_job_name(pipeline: Trainable) -> str:
    return f"{pipeline.name}_full"


def build_full_job(pipeline: Pipeline) -> AssetJob:
    """The first run of a pipeline: training, and then the nightly job with the model that passed the gate."""
    about = f"Train {pipeline.name}, then score and publish an as-of date."
    return build_asset_job(full_job_name(pipeline), about, training_selection(pipeline) | nightly_selection(pipeline))


class ApprovalConfig(dg.Config):
    """Configuration of an approval: the decision of the person who launches the job."""

    confirmed_by: str = Field(min_length=1, description="Who decides, for the promotion ledger.")
    decision: Literal["approve", "reject", "evaluate"] = Field(
        "approve",
        description="Reject leaves the champion as it is. Evaluate asks the gate again, without training.",
    )
    reason: str = Field("", description="Why, for the promotion ledger.")
    version: int | None = Field(None, description="The version; none: the newest that waits for approval.")
    outdated_verdict: bool = Field(False, description="Approve although champion or gate changed since the verdict.")


def approval_job_name(pipeline: Trainable) -> str:
    return f"{pipeline.name}_approve"


def _format_champion_change(before: int | None, after: int | None) -> str:
    return f"{before or 'none'} before, {after or 'none'} after"


def build_approval_job(pipeline: Trainable) -> dg.JobDefinition:
    """One step that takes a name and a decision from the launchpad, and sets the champion if the model is approved."""

    @dg.op(name=f"decide_{pipeline.name}", description=f"Approve or reject the model of {pipeline.name} that waits.")
    @explain_errors
    def decide_on_model(
        context: dg.OpExecutionContext, config: ApprovalConfig, settings: SettingsResource
    ) -> Iterator[Any]:
        from forecache.operations.approval import approve, judge_version

        by = {"version": config.version, "actor": f"dagster:{config.confirmed_by}", "run_id": context.run_id}
        if config.decision == "evaluate":
            verdict = judge_version(settings.load(), pipeline, **by)
            metadata = {"version": verdict.model_version, "verdict": verdict_view(verdict.checks)}
            reason, moved = verdict.line, (verdict.champion_before, verdict.champion_after)
        else:
            entry = approve(
                settings.load(),
                pipeline,
                approved=config.decision == "approve",
                reason=config.reason,
                outdated_verdict=config.outdated_verdict,
                **by,
            )
            metadata = {"version": entry.about or 0}
            reason, moved = entry.reason, (entry.from_version, entry.to_version)
        metadata |= {"decision": config.decision, "by": by["actor"], "champion": _format_champion_change(*moved)}
        yield dg.AssetObservation(model_name(pipeline), metadata={**metadata, "reason": reason})
        yield dg.Output(None, metadata=metadata)

    waits = f"Confirm the model of {pipeline.name} that waits for approval"
    about = f"{waits}: open the launchpad, put your name into `confirmed_by`, launch."
    return build_op_job(decide_on_model, approval_job_name(pipeline), about)
