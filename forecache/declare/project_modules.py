"""Import the modules of a project and find their declarations."""

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import TypeGuard

from forecache.base.errors import ForecacheError, SettingsError
from forecache.base.settings import Settings
from forecache.declare.checks.conflicts import Declared
from forecache.declare.code.location import add_project
from forecache.declare.features.view import FeatureView
from forecache.declare.mailings.mailing import Mailing
from forecache.declare.realtime.realtime import Realtime


def import_from_project(settings: Settings, module: str) -> ModuleType:
    """Import a module of the project; its package may lie in the current folder.

    Raises:
        SettingsError: It cannot be imported.
    """
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
    """Import a module and return its declarations, each checked.

    Raises:
        SettingsError: The import or a check failed.
    """
    try:
        module = importlib.import_module(module_name)
        found = {id(value): value for value in vars(module).values() if _is_standalone(value)}
        for each in found.values():
            # Computed now, from the source that was loaded; raises if a value cannot be compared between two runs.
            assert isinstance(each, Mailing) or each.fingerprint
            assert not isinstance(each, Realtime) or each.is_tried
        return list(found.values())
    except (Exception, SystemExit) as error:
        what = str(error) if isinstance(error, ForecacheError) else f"{type(error).__name__}: {error}."
        raise SettingsError(
            f"The pipeline module {module_name} cannot be used: {what}",
            remedy="" if isinstance(error, ForecacheError) else "Mend the module.",
        ) from error
