"""The models that pipelines apply: each is where its declaration says, and a night could be scored with it here."""

import os

from forecache.cli.checks.finding import Finding
from forecache.errors import ForecacheError
from forecache.settings import Settings


def check_registered_models(settings: Settings) -> Finding:
    """Resolve each registered model's URI in MLflow, and load the model as a nightly run does."""
    from forecache.pipeline import RegisteredModel
    from forecache.pipeline.loading import read_project

    pipelines = read_project(settings).pipelines.values()
    applied = [(pipeline, pipeline.model) for pipeline in pipelines if isinstance(pipeline.model, RegisteredModel)]
    if not applied:
        return Finding("models", "ok", "no pipeline applies a registered model")
    from forecache.registry.applied.plan import plan_model
    from forecache.registry.applied.resolve import resolve

    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # MLflow retries for minutes by default
    found, problems = [], []
    for pipeline, model in applied:
        try:
            version = resolve(settings, pipeline, model)
            plan_model(settings, pipeline, version)
            found.append(f"{pipeline.name}: {model.uri} is {f'version {version.version}' if model.name else 'there'}")
        except ForecacheError as error:
            problems.append(error)
    if problems:
        return Finding("models", "fail", " ".join(error.message for error in problems), problems[0].remedy)
    return Finding("models", "ok", "; ".join(found))
