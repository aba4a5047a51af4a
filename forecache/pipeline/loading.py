"""The pipelines of a project, found by importing the modules of its `pipelines` sub-package."""

import importlib
import pkgutil

from forecache.errors import ForecacheError, NotFoundError, SettingsError
from forecache.pipeline.declaration import Pipeline
from forecache.settings import Settings


def load_pipelines(settings: Settings) -> dict[str, Pipeline]:
    """Every pipeline of the project by name, in alphabetical order.

    Raises:
        SettingsError: The project package or a module in it cannot be imported, or a name is declared twice.
    """
    package_name = f"{settings.project}.pipelines"
    try:
        package = importlib.import_module(package_name)
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"The project package {package_name!r} cannot be imported: {error}.",
            remedy="Set FORECACHE_PROJECT to a package that holds `pipelines/`, or run from the project's folder.",
        ) from None
    pipelines: dict[str, Pipeline] = {}
    for module_info in pkgutil.iter_modules(package.__path__):
        for pipeline in _pipelines_in(f"{package_name}.{module_info.name}"):
            if pipelines.get(pipeline.name, pipeline) is not pipeline:
                raise SettingsError(
                    f"Two pipelines are named {pipeline.name!r}, the second in {module_info.name}.py.",
                    remedy="Rename one: the name is part of tables, jobs, the store and the route.",
                )
            pipelines[pipeline.name] = pipeline
    return dict(sorted(pipelines.items()))


def _pipelines_in(module_name: str) -> list[Pipeline]:
    try:
        module = importlib.import_module(module_name)
    except ForecacheError:
        raise
    except Exception as error:
        raise SettingsError(
            f"The pipeline module {module_name} cannot be imported: {type(error).__name__}: {error}.",
            remedy="Mend the module; the other pipelines wait for it.",
        ) from error
    return [value for value in vars(module).values() if isinstance(value, Pipeline)]


def load_pipeline(settings: Settings, name: str) -> Pipeline:
    """One pipeline by name.

    Raises:
        NotFoundError: No pipeline has that name; the message lists those there are.
    """
    pipelines = load_pipelines(settings)
    if name not in pipelines:
        known = ", ".join(pipelines) or "none"
        raise NotFoundError(f"There is no pipeline {name!r}.", remedy=f"Pipelines in {settings.project}: {known}.")
    return pipelines[name]
