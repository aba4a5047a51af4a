"""The pipelines of a project, found by importing the modules of its `pipelines` sub-package.

A module that cannot be imported or has a wrong declaration makes only its own pipelines unusable: its error is kept
in `Project.broken` and logged, and the others are loaded.
"""

import importlib
import logging
import pkgutil
import sys
from collections.abc import Iterable, Mapping
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import Any, TypeGuard, TypeVar

from forecache.base.errors import ForecacheError, InputError, SettingsError
from forecache.base.settings import Settings
from forecache.base.table_names import unknown_name_error
from forecache.declare.code.location import add_project
from forecache.declare.declaration import Pipeline
from forecache.declare.features.view import FeatureView
from forecache.declare.models.trainable import Trainable, not_trained_error
from forecache.declare.project import Declared, Nightly, Project, Published, conflict_errors, published_views
from forecache.declare.realtime.realtime import Realtime
from forecache.declare.served import PluginDeclaration, PluginTable
from forecache.declare.stream import Stream

_log = logging.getLogger(__name__)
_warned: set[str] = set()
_T = TypeVar("_T")
_PUBLISHED = "pipeline, recommender or feature view"
_ALL = "pipeline, recommender, feature view or real-time model"


def import_from_project(settings: Settings, module: str) -> ModuleType:
    """Import a module of the project; its package may lie in the current folder."""
    root = settings.project.partition(".")[0]
    folder = Path.cwd()
    # A console script, other than `python -m`, does not have the current folder on its path.
    if root not in sys.modules and (folder / root).is_dir() and str(folder) not in sys.path:
        sys.path.append(str(folder))
    add_project(root)
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and not f"{module}.".startswith(f"{error.name}."):
            raise SettingsError(
                f"The project module {module!r} cannot be imported: {error}.", remedy=f"Install {error.name}."
            ) from error
        raise SettingsError(
            f"The project module {module!r} cannot be imported: {error}.",
            remedy="Set FORECACHE_PROJECT to the package that has it, and run from the folder in which that package "
            "lies, or put that folder on PYTHONPATH.",
        ) from error


def _is_standalone(value: object) -> TypeGuard[Declared]:
    """True for a declaration, except a view that is not published: that is a part of the pipelines that use it."""
    return isinstance(value, Declared) and not (isinstance(value, FeatureView) and value.publish is None)


def load_declarations(module_name: str) -> list[Declared]:
    try:
        module = importlib.import_module(module_name)
        found = {id(value): value for value in vars(module).values() if _is_standalone(value)}
        for each in found.values():
            # Computed now, from the source that was loaded; raises if a value cannot be compared between two runs.
            assert getattr(each, "fingerprint", "none")
            assert not isinstance(each, Realtime) or each.is_tried
        return list(found.values())
    except (Exception, SystemExit) as error:
        what = str(error) if isinstance(error, ForecacheError) else f"{type(error).__name__}: {error}."
        raise SettingsError(
            f"The pipeline module {module_name} cannot be used: {what}",
            remedy="" if isinstance(error, ForecacheError) else "Mend the module.",
        ) from error


def read_project(settings: Settings) -> Project:
    """Load every module of the project's pipelines; a broken one is imported again at each call.

    Raises:
        SettingsError: The project package cannot be imported.
    """
    package_name = f"{settings.project}.pipelines"
    package = import_from_project(settings, package_name)
    modules = [f"{package_name}.{found.name}" for found in pkgutil.iter_modules(package.__path__)]
    found: dict[str, list[Declared]] = {}
    broken: dict[str, SettingsError] = {}
    for module in modules:
        try:
            found[module] = load_declarations(module)
        except SettingsError as error:
            broken[module] = error
    broken |= conflict_errors(found, is_whole=not broken)
    by_name = attrgetter("name")
    usable = sorted((each for module, some in found.items() if module not in broken for each in some), key=by_name)
    return Project(
        {each.name: each for each in usable if isinstance(each, Pipeline)},
        broken,
        {view.name: view for view in sorted(published_views(usable), key=by_name)},
        {each.name: each for each in usable if isinstance(each, Realtime)},
        {each.name: each for each in usable if isinstance(each, Stream)},
        list({id(each): each for each in usable if isinstance(each, PluginDeclaration)}.values()),
    )


def load_pipelines(settings: Settings) -> dict[str, Pipeline]:
    """The usable pipelines of the project by name, in alphabetical order; logs a warning for each broken module.

    Raises:
        SettingsError: The project package cannot be imported.
    """
    project = read_project(settings)
    _warn_of_broken_modules(project)
    return project.pipelines


def load_served(settings: Settings, name: str, *, models: Iterable[str] | None = None) -> Published:
    """One pipeline, recommender, second table of a recommender, or feature view by name.

    Args:
        models: Names of released real-time models, if the caller accepts real-time models too and has not found `name`
            among them: the error then lists these and the declared ones.

    Raises:
        NotFoundError: Nothing has that name; the message lists the names.
        InputError: It is a real-time model or a stream.
        SettingsError: Nothing has that name, and a broken module may declare it.
    """
    project = read_project(settings)
    if models is None:
        return _require_served(settings, project, name, _PUBLISHED, project.publishable)
    return _require_served(settings, project, name, _ALL, [*project.publishable, *project.realtime, *models])


def _require_served(settings: Settings, project: Project, name: str, kinds: str, there: Iterable[str]) -> Published:
    if name in project.realtime:
        raise realtime_name_error(name)
    if name in project.streams:
        raise InputError(
            f"{name!r} is a stream: its rows are served as they come, and nothing is published.",
            remedy=f"`forecache stream {name}` runs it.",
        )
    found = find_served(settings, name, project)
    if found is None:
        raise unknown_name_error(name, kinds, there, where=settings.project)
    return found


def realtime_name_error(name: str) -> InputError:
    """The error for the name of a real-time model if something published is needed."""
    return InputError(
        f"{name!r} is a real-time model: its answers are made when it is asked, and none is published.",
        remedy=f"Ask it, POST /v1/{name}; `forecache release list {name}` lists what answers.",
    )


def load_trainable(settings: Settings, name: str) -> Trainable:
    project = read_project(settings)
    if name in project.realtime:
        return project.realtime[name]
    there = sorted({*project.pipelines, *project.realtime})
    found = _require_served(settings, project, name, "pipeline or real-time model", there)
    if isinstance(found, FeatureView):
        raise InputError(f"{name!r} is a feature view: it has no model.", remedy="Name a pipeline that uses it.")
    if not isinstance(found, Pipeline):
        raise InputError(
            f"{name!r} is a {found.maker.kind}: each nightly run fits it anew, and no model of it is registered.",
            remedy=f"`forecache run {name}` fits and publishes it.",
        )
    return found


def load_pipeline(settings: Settings, name: str) -> Pipeline:
    """One pipeline by name.

    Raises:
        InputError: It is a real-time model, a recommender or a feature view.
        Others as `load_served`.
    """
    found = load_trainable(settings, name)
    if not isinstance(found, Pipeline):
        raise InputError(
            f"{name!r} is a real-time model: it answers requests, and no as-of date of it is scored.",
            remedy=f"`forecache release list {name}` lists what answers.",
        )
    return found


def load_trained(settings: Settings, name: str) -> Trainable:
    found = load_trainable(settings, name)
    if not found.is_trained:
        raise not_trained_error(found)
    return found


def load_realtime(settings: Settings, name: str, *, released: Iterable[str] = ()) -> Realtime:
    """One real-time model by name; raises as `load_served`.

    Args:
        released: Names of models that are released here, which the caller accepts; the error lists them, too.
    """
    project = read_project(settings)
    return _require_declared(settings, project, project.realtime, name, "real-time model", released)


def load_stream(settings: Settings, name: str) -> Stream:
    """One stream by name; raises as `load_served`."""
    project = read_project(settings)
    return _require_declared(settings, project, project.streams, name, "stream")


def _require_declared(
    settings: Settings, project: Project, found: Mapping[str, _T], name: str, kind: str, others: Iterable[str] = ()
) -> _T:
    _warn_of_broken_modules(project)
    if name not in found and project.broken:
        raise _broken_module_error(project, name)
    if name not in found:
        raise unknown_name_error(name, kind, [*found, *others], where=settings.project)
    return found[name]


def load_declared(settings: Settings, kind: str, name: str) -> Any:
    """One declaration of a kind that a plug-in adds, by name; raises as `load_served`."""
    project = read_project(settings)
    return _require_declared(settings, project, project.declared(kind), name, kind)


def load_nightly(settings: Settings, name: str) -> Nightly:
    """One pipeline, recommender, published view or real-time model by name."""
    project = read_project(settings)
    if name in project.realtime:
        return project.realtime[name]
    found = _require_served(settings, project, name, _ALL, [*project.publishable, *project.realtime])
    if not isinstance(found, PluginTable):
        return found
    if found.maker.name != name:
        raise InputError(
            f"{name!r} is made by {found.maker.name!r}.",
            remedy=f"`forecache run {found.maker.name}` makes and publishes it.",
        )
    return found.maker


def find_served(settings: Settings, name: str, project: Project | None = None) -> Published | None:
    """One declaration whose rows are published, by name; None if it is not declared."""
    project = project or read_project(settings)
    _warn_of_broken_modules(project)
    if name not in project.publishable and project.broken:
        raise _broken_module_error(project, name)
    return project.publishable.get(name)


def _broken_module_error(project: Project, name: str) -> SettingsError:
    """The error of the broken module with this name, else of the first broken module."""
    own = [error for module, error in project.broken.items() if module.rpartition(".")[2] == name]
    return (own or list(project.broken.values()))[0]


def _warn_of_broken_modules(project: Project) -> None:
    for error in project.broken.values():
        if str(error) not in _warned:
            _warned.add(str(error))
            _log.warning("%s The other pipelines go on without it.", error)
