"""Checks of services: existing tables, databases, and registered models."""

import os

from forecache.base.errors import ForecacheError
from forecache.base.plugins import load_hook
from forecache.base.settings import Settings
from forecache.cli.checks import Finding


def check_sources(settings: Settings) -> Finding:
    """Open every existing table, and connect to every database, that a source of the project names.

    Raises:
        ForecacheError: One cannot be used; the message names the source.
    """
    from forecache.declare import Query, TableSource
    from forecache.declare.loading import read_project
    from forecache.lake.sources import Pins

    project = read_project(settings)
    declared = (*project.publishable.values(), *project.mailings.values())
    sources = {source.name: source for each in declared for source in each.all_sources}.values()
    tables = [source for source in sources if isinstance(source, TableSource)]
    queried = [
        source for source in sources if not isinstance(source, TableSource) and isinstance(source.extract, Query)
    ]
    pins = Pins(settings)
    for table in tables:
        pins.pin(table)
    for source in queried:
        load_hook("table_sources", "require_database")(settings, source)
    if not tables and not queried:
        return Finding("sources", "ok", "only landing files")
    return Finding("sources", "ok", f"{len(tables)} existing tables and {len(queried)} queried databases answer")


def check_registered_models(settings: Settings) -> Finding:
    """Resolve each registered model's URI in MLflow, and load the model as a nightly run does."""
    from forecache.declare import RegisteredModel
    from forecache.declare.loading import read_project

    pipelines = read_project(settings).pipelines.values()
    applied = [(pipeline, pipeline.model) for pipeline in pipelines if isinstance(pipeline.model, RegisteredModel)]
    if not applied:
        return Finding("models", "ok", "no pipeline applies a registered model")
    from forecache.models.registry.applied.resolve import resolve_uri
    from forecache.models.registry.applied.scoring_plan import plan_model

    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # MLflow retries for minutes by default
    found, problems = [], []
    for pipeline, model in applied:
        try:
            version = resolve_uri(settings, pipeline, model)
            plan_model(settings, pipeline, version)
            found.append(f"{pipeline.name}: {model.uri} is {f'version {version.version}' if model.name else 'there'}")
        except ForecacheError as error:
            problems.append(error)
    if problems:
        return Finding("models", "fail", " ".join(error.message for error in problems), problems[0].remedy)
    return Finding("models", "ok", "; ".join(found))
