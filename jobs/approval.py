"""The approval job of a pipeline whose gate asks for one: a person confirms or rejects the model that waits."""

from collections.abc import Iterator
from typing import Any, Literal

import dagster as dg
from pydantic import Field

from assets.model import model_name
from assets.stage import explained
from forecache.pipeline import Pipeline
from resources.settings import SettingsResource


class Decision(dg.Config):
    """What the person who launches the job fills in."""

    confirmed_by: str = Field(min_length=1, description="Who decides, for the promotion ledger.")
    decision: Literal["approve", "reject"] = Field("approve", description="Reject leaves the champion what it is.")
    reason: str = Field("", description="Why, for the promotion ledger.")
    version: int | None = Field(None, description="The version; none: the newest that waits for approval.")


def approval_job_name(pipeline: Pipeline) -> str:
    return f"approve_{pipeline.name}"


def build_approval_job(pipeline: Pipeline) -> dg.JobDefinition:
    """One step that asks for a name in the launchpad, and moves the alias or not."""

    @dg.op(name=f"decide_{pipeline.name}", description=f"Approve or reject the model of {pipeline.name} that waits.")
    @explained
    def decide(context: dg.OpExecutionContext, config: Decision, settings: SettingsResource) -> Iterator[Any]:
        from forecache.operations.approval import approve

        entry = approve(
            settings.load(),
            pipeline,
            version=config.version,
            approved=config.decision == "approve",
            actor=f"dagster:{config.confirmed_by}",
            reason=config.reason,
            run_id=context.run_id,
        )
        champion = f"{entry.from_version or 'none'} before, {entry.to_version or 'none'} after"
        metadata = {"decision": config.decision, "version": entry.about or 0, "by": entry.actor, "champion": champion}
        yield dg.AssetObservation(model_name(pipeline), metadata={**metadata, "reason": entry.reason})
        yield dg.Output(None, metadata=metadata)

    @dg.job(
        name=approval_job_name(pipeline),
        description=f"Confirm the model of {pipeline.name} that waits for approval: open the launchpad, put your name "
        "into `confirmed_by`, launch.",
        executor_def=dg.in_process_executor,
    )
    def approval() -> None:
        decide()

    return approval
