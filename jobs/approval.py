"""The approval job of a pipeline whose gate requires one: a person approves or rejects the waiting model.

If the champion has changed since the verdict, the job says so; a person can have the gate judge again before deciding.
"""

from collections.abc import Iterator
from typing import Any, Literal

import dagster as dg
from pydantic import Field

from assets.model import model_name
from assets.stage import explain_errors
from assets.views import verdict_view
from forecache.declare import Trainable
from jobs.schedules import build_op_job
from resources.settings import SettingsResource


class ApprovalConfig(dg.Config):
    """Configuration of an approval: the decision of the person who launches the job."""

    confirmed_by: str = Field(min_length=1, description="Who decides, for the promotion ledger.")
    decision: Literal["approve", "reject", "judge"] = Field(
        "approve",
        description="Reject leaves the champion what it is. Judge has the gate judge again, without training.",
    )
    reason: str = Field("", description="Why, for the promotion ledger.")
    version: int | None = Field(None, description="The version; none: the newest that waits for approval.")
    outdated_verdict: bool = Field(False, description="Approve although champion or gate changed since the verdict.")


def approval_job_name(pipeline: Trainable) -> str:
    return f"approve_{pipeline.name}"


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
        if config.decision == "judge":
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
