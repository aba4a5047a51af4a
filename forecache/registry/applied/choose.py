"""The models of a pipeline: the version that scores now, and all versions for people."""

from dataclasses import replace

from forecache.pipeline import Pipeline, RegisteredModel
from forecache.pipeline.models.applied import FunctionModel, SqlModel
from forecache.registry.applied.floors import accepted
from forecache.registry.applied.numbers import number_of
from forecache.registry.applied.resolve import numbered, resolve
from forecache.registry.versions.models import ModelVersion, champion
from forecache.settings import Settings


def scoring_model(settings: Settings, pipeline: Pipeline, *, run_id: str = "") -> ModelVersion:
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
        found = resolve(settings, pipeline, pipeline.model)
        if not pipeline.model.name:
            details = {"uri": found.uri, "mlflow_run_id": found.run_id}
            number = number_of(settings, pipeline.name, found.uri, details, run_id=run_id)
            found = replace(found, version=number)
        return accepted(settings, pipeline, pipeline.model, found, run_id=run_id)
    return _declared(settings, pipeline, run_id=run_id)


def _declared(settings: Settings, pipeline: Pipeline, *, run_id: str) -> ModelVersion:
    """The version of a declared function or expression, identified by its code."""
    code, model = pipeline.fingerprints.training, pipeline.model
    assert isinstance(model, FunctionModel | SqlModel)
    uri = f"function {model.path}" if isinstance(model, FunctionModel) else "sql"
    said = {"expression": model.expression} if isinstance(model, SqlModel) else {"function": model.path}
    number = number_of(settings, pipeline.name, f"{uri} code={code}", {"uri": uri, **said}, run_id=run_id)
    return numbered(pipeline, number, f"{uri} code={code}")
