"""List the models of a pipeline: those that it trained, the versions of a registered one, or those in the ledger."""

from dataclasses import replace

from forecache.errors import NotFoundError
from forecache.lake.ledger import StageRecord, all_records
from forecache.pipeline import Pipeline, RegisteredModel
from forecache.registry.applied.floors import STAGE
from forecache.registry.applied.numbers import met_models
from forecache.registry.applied.resolve import numbered, registered_versions
from forecache.registry.versions.models import ModelVersion, list_models, model_version
from forecache.settings import Settings


def models_of(settings: Settings, pipeline: Pipeline) -> list[ModelVersion]:
    """All versions, newest first; those of a registered model with floors have their verdicts.

    Raises:
        UnavailableError: MLflow does not answer.
    """
    if pipeline.is_trained:
        return list_models(settings, pipeline)
    if isinstance(pipeline.model, RegisteredModel) and pipeline.model.name:
        verdicts = {row.details["uri"]: row for row in all_records(settings, STAGE, pipeline.name)}
        found = registered_versions(settings, pipeline.model)
        return [_judged(version, verdicts.get(version.uri)) for version in found]
    return [_met(pipeline, number, row) for number, row in reversed(met_models(settings, pipeline.name).items())]


def model_of(settings: Settings, pipeline: Pipeline, version: int) -> ModelVersion:
    """The version that a prediction names.

    Raises:
        NotFoundError: There is no version of that number any more.
        UnavailableError: MLflow does not answer.
    """
    if pipeline.is_trained:
        return model_version(settings, pipeline, version)
    for found in models_of(settings, pipeline):
        if found.version == version:
            return found
    raise NotFoundError(
        f"The model of pipeline {pipeline.name!r} has no version {version}.",
        remedy=f"`forecache models {pipeline.name}` lists them.",
    )


def _judged(version: ModelVersion, verdict: StageRecord | None) -> ModelVersion:
    if verdict is None:
        return version
    tags = {**version.tags, "gate_reason": str(verdict.details["reason"])}
    gate = "passed" if verdict.details["accepted"] else "failed"
    return replace(version, gate=gate, metrics=verdict.details["metrics"], tags=tags)


def _met(pipeline: Pipeline, number: int, row: StageRecord) -> ModelVersion:
    run = str(row.details.get("mlflow_run_id", ""))
    version = numbered(pipeline, number, str(row.details["uri"]), run_id=run, created_at=row.recorded_at)
    return replace(version, tags={"code_version": row.code_version})
