"""The bridge to the project's orchestrator: loaded by name, so that the engine imports none."""

import importlib
from collections.abc import Callable, Sequence
from datetime import date
from types import ModuleType
from typing import Literal

from forecache.errors import SettingsError
from forecache.pipeline import load_pipeline, load_pipelines
from forecache.results import Progress, StageResult
from forecache.settings import Settings

Job = Literal["nightly", "training", "ingest", "full"]


def load_project(settings: Settings, module: str) -> ModuleType:
    """A module of the project package, such as its `runner`.

    Raises:
        SettingsError: The project has no such module, or it cannot be imported.
    """
    name = f"{settings.project}.{module}"
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"The project module {name!r} cannot be imported: {error}.",
            remedy="Set FORECACHE_PROJECT to a package that has it, or run from the project's folder.",
        ) from error


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
) -> list[StageResult]:
    """Run a job through the orchestrator, so that the run is in its UI; results in the order stages ended."""
    runner = load_project(settings, "runner")
    results = runner.run(settings, pipelines=pipelines, nights=nights, job=job, progress=progress, on_stage=on_stage)
    return list(results)
