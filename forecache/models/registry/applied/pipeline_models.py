"""The models of a pipeline: the version that scores now, and all versions for people."""

from dataclasses import replace

from forecache.base.errors import NotFoundError
from forecache.base.settings import Settings
from forecache.declare import RegisteredModel, Trainable
from forecache.declare.models.applied import FunctionModel, SqlModel
from forecache.lake.ledger import StageRecord, all_records
from forecache.models.registry.applied.floors import STAGE, accepted_version
from forecache.models.registry.applied.resolve import (
    make_numbered_version,
    number_model,
    recorded_models,
    registered_versions,
    resolve_uri,
)
from forecache.models.registry.versions.model_versions import ModelVersion, champion, list_models, model_version


def scoring_model(settings: Settings, pipeline: Trainable, *, run_id: str = "") -> ModelVersion:
    """The version that scores now: the champion, or the declared model; judges a new version that has floors.

    Raises:
        NotFoundError: There is no champion, or no such registered model, version, alias or run.
        UnavailableError: MLflow does not answer.
        CheckError: No version of the registered model has reached its floors.
        InputError: The table that it is judged on does not fit.
    """
    if pipeline.is_trained:
        return champion(settings, pipeline)
    if isinstance(pipeline.model, RegisteredModel):
        found = resolve_uri(settings, pipeline, pipeline.model)
        if not pipeline.model.name:
            details = {"uri": found.uri, "mlflow_run_id": found.run_id}
            number = number_model(settings, pipeline.name, found.uri, details, run_id=run_id)
            found = replace(found, version=number)
        return accepted_version(settings, pipeline, pipeline.model, found, run_id=run_id)
    return _declared_model(settings, pipeline, run_id=run_id)


def _declared_model(settings: Settings, pipeline: Trainable, *, run_id: str) -> ModelVersion:
    """The version of a declared function or expression, identified by its code."""
    code, model = pipeline.fingerprints.training, pipeline.model
    assert isinstance(model, FunctionModel | SqlModel)
    uri = f"function {model.path}" if isinstance(model, FunctionModel) else "sql"
    said = {"expression": model.expression} if isinstance(model, SqlModel) else {"function": model.path}
    number = number_model(settings, pipeline.name, f"{uri} code={code}", {"uri": uri, **said}, run_id=run_id)
    return make_numbered_version(pipeline, number, f"{uri} code={code}")


def models_of(settings: Settings, pipeline: Trainable) -> list[ModelVersion]:
    """All versions, newest first; those of a registered model with floors have their verdicts.

    Raises:
        UnavailableError: MLflow does not answer.
    """
    if pipeline.is_trained:
        return list_models(settings, pipeline)
    if isinstance(pipeline.model, RegisteredModel) and pipeline.model.name:
        verdicts = {row.details["uri"]: row for row in all_records(settings, STAGE, pipeline.name)}
        found = registered_versions(settings, pipeline.model)
        return [_add_verdict(version, verdicts.get(version.uri)) for version in found]
    return [
        _recorded_version(pipeline, number, row)
        for number, row in reversed(recorded_models(settings, pipeline.name).items())
    ]


def model_of(settings: Settings, pipeline: Trainable, version: int) -> ModelVersion:
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


def _add_verdict(version: ModelVersion, verdict: StageRecord | None) -> ModelVersion:
    if verdict is None:
        return version
    tags = {**version.tags, "gate_reason": str(verdict.details["reason"])}
    gate = "passed" if verdict.details["accepted"] else "failed"
    return replace(version, gate=gate, metrics=verdict.details["metrics"], tags=tags)


def _recorded_version(pipeline: Trainable, number: int, row: StageRecord) -> ModelVersion:
    run = str(row.details.get("mlflow_run_id", ""))
    version = make_numbered_version(pipeline, number, str(row.details["uri"]), run_id=run, created_at=row.recorded_at)
    return replace(version, tags={"code_version": row.code_version})
