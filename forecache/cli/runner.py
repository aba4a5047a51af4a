"""The bridge to the orchestrator, Dagster: loaded by name, so that the engine imports none."""

import importlib
from collections.abc import Callable, Sequence
from datetime import date
from types import ModuleType
from typing import Literal

from forecache.pipeline import load_pipeline, load_pipelines
from forecache.results import Progress, StageResult
from forecache.settings import Settings

Job = Literal["nightly", "training", "ingest", "full"]


def orchestrator(module: str) -> ModuleType:
    """A module beside the engine, such as `jobs.runner`."""
    return importlib.import_module(module)


def chosen_pipelines(settings: Settings, names: Sequence[str]) -> list[str]:
    """The names given, each checked, or those of all pipelines where none is given."""
    if not names:
        return list(load_pipelines(settings))
    return [load_pipeline(settings, name).name for name in dict.fromkeys(names)]


def run_job(
    settings: Settings,
    *,
    pipelines: list[str],
    nights: tuple[date, date] | None,
    job: Job,
    progress: Progress,
    on_stage: Callable[[StageResult], None],
    rebuild: bool = False,
) -> list[StageResult]:
    """Run a job through the orchestrator, so that the run is in its UI; results in the order stages ended.

    Raises:
        PipelinesFailed: Some of several pipelines failed.
        ForecacheError: What made the only pipeline fail.
    """
    results = orchestrator("jobs.runner").run(
        settings, pipelines=pipelines, nights=nights, job=job, progress=progress, on_stage=on_stage, rebuild=rebuild
    )
    return list(results)
