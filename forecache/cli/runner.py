"""The bridge to the orchestrator, Dagster, whose modules are imported by name: the framework must not import them."""

import importlib
from collections.abc import Callable, Sequence
from datetime import date
from importlib.util import find_spec
from types import ModuleType
from typing import Literal

from forecache.base.errors import NotFoundError
from forecache.base.results import Progress, StageResult
from forecache.base.settings import Settings
from forecache.base.table_names import unknown_name_error
from forecache.declare.loading import (
    load_nightly,
    load_pipelines,
    load_served,
    load_trainable,
    load_trained,
    read_project,
)

Job = Literal["nightly", "training", "ingest", "full"]


def import_orchestrator(module: str) -> ModuleType:
    """Import a module of the orchestrator's packages, such as `jobs.runner`."""
    return importlib.import_module(module)


def has_orchestrator_run(settings: Settings) -> bool:
    """True if the orchestrator is installed and has run in this installation before."""
    return find_spec("dagster") is not None and settings.dagster_home.is_dir()


def resolve_served_names(settings: Settings, names: Sequence[str]) -> list[str]:
    """The given names, each checked; those of all pipelines and recommenders if none is given."""
    if not names:
        return list(read_project(settings).publishable)
    return [load_served(settings, name).name for name in dict.fromkeys(names)]


def resolve_nightly_names(settings: Settings, names: Sequence[str]) -> list[str]:
    """The given names, each checked; the names of everything with a nightly run if none is given."""
    if not names:
        return list(read_project(settings).nightly)
    return [load_nightly(settings, name).name for name in dict.fromkeys(names)]


def resolve_ingest_names(settings: Settings, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split the given names, each checked, into those with a nightly run and those of sources with landing files."""
    project = read_project(settings)
    sources = [name for name in dict.fromkeys(names) if name in project.landed_sources and name not in project.nightly]
    others = [name for name in dict.fromkeys(names) if name not in sources]
    try:
        return [load_nightly(settings, name).name for name in others], sources
    except NotFoundError:
        lacking = next(name for name in others if name not in project.nightly)
        there = [*project.nightly, *project.landed_sources]
        kinds = "pipeline, recommender, feature view, real-time model or source with landing files"
        raise unknown_name_error(lacking, kinds, there, where=settings.project) from None


def resolve_pipeline_names(settings: Settings, names: Sequence[str]) -> list[str]:
    """The given names, each checked; those of all pipelines and real-time models if none is given."""
    if not names:
        return [*load_pipelines(settings), *read_project(settings).realtime]
    return [load_trainable(settings, name).name for name in dict.fromkeys(names)]


def resolve_trained_names(settings: Settings, names: Sequence[str]) -> list[str]:
    """The given names, each checked; the names of all pipelines and models that are trained here if none is given."""
    if not names:
        return list(read_project(settings).trained_models)
    return [load_trained(settings, name).name for name in dict.fromkeys(names)]


def run_job(
    settings: Settings,
    *,
    pipelines: list[str],
    sources: Sequence[str] = (),
    nights: tuple[date, date] | None,
    job: Job,
    progress: Progress,
    on_stage: Callable[[StageResult], None],
    rebuild: bool = False,
) -> list[StageResult]:
    """Run a job through the orchestrator, so that its UI shows the run; returns results in the order stages ended.

    Raises:
        PipelinesFailed: Some of several pipelines or sources failed.
        ForecacheError: The error of a single one.
    """
    results = import_orchestrator("jobs.runner").run(
        settings,
        pipelines=pipelines,
        sources=sources,
        nights=nights,
        job=job,
        progress=progress,
        on_stage=on_stage,
        rebuild=rebuild,
    )
    return list(results)
