"""Tell modules of the user's project from libraries, and find their source files."""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePath
from typing import Any

from forecache.base.errors import InputError

_ENGINE = {"forecache", "assets", "jobs", "resources"}
_LIBRARY_FOLDERS = {"site-packages", "dist-packages"}
_project_packages: set[str] = set()


def add_project(package: str) -> None:
    """Register a package as a part of the project, even if it is installed as a library."""
    root = package.partition(".")[0]
    if root not in _project_packages:
        _project_packages.add(root)
        _is_project_root.cache_clear()


def is_project_module(module: str) -> bool:
    """True for a module of the project: neither Forecache's, nor the standard library's, nor installed."""
    return _is_project_root(module.partition(".")[0])


def stable_module(module: str) -> str:
    """Return the module's name; "forecache" for each of Forecache's own, so that moving one changes no fingerprint."""
    root = module.partition(".")[0]
    return root if root == "forecache" else module


@cache
def _is_project_root(root: str) -> bool:
    if root in _ENGINE or root in sys.stdlib_module_names or root in sys.builtin_module_names:
        return False
    if root in _project_packages:
        return True
    loaded = sys.modules.get(root)
    places = [getattr(loaded, "__file__", None), *getattr(loaded, "__path__", [])] if loaded else _find_locations(root)
    paths = [Path(place) for place in places if place]
    # A module without a file, such as a notebook's `__main__`, was written by the user.
    return not any(_LIBRARY_FOLDERS.intersection(path.parts) for path in paths)


def _find_locations(root: str) -> list[str | None]:
    try:
        spec = importlib.util.find_spec(root)
    except (ImportError, ValueError):
        return []
    return [spec.origin, *(spec.submodule_search_locations or [])] if spec else []


def path_in_project(path: PurePath) -> str | None:
    """An absolute path inside a package of the project, relative to the package's parent; None for any other path."""
    for folder in (path, *path.parents):
        name = folder.name
        if name in sys.modules and is_project_module(name) and folder in package_folders(name):
            return f"{name}/{path.relative_to(folder).as_posix()}"
    return None


def source_file(module: str) -> Path | None:
    """The file of a module, found without importing it; None if it has none or there is no such module."""
    loaded = sys.modules.get(module)
    if loaded is not None:
        place = getattr(loaded, "__file__", None)
        return Path(place) if place else None
    parent, _, name = module.rpartition(".")
    folders = package_folders(parent) if parent else [Path(entry or ".") for entry in sys.path]
    for folder in folders:
        for candidate in (folder / name / "__init__.py", folder / f"{name}.py"):
            if candidate.is_file():
                return candidate
    return None


def package_folders(package: str) -> list[Path]:
    loaded = sys.modules.get(package)
    if loaded is not None:
        return [Path(place) for place in getattr(loaded, "__path__", [])]
    file = source_file(package)
    if file is not None:
        return [file.parent] if file.name == "__init__.py" else []
    parent, _, name = package.rpartition(".")  # a package without an __init__.py
    above = package_folders(parent) if parent else [Path(entry or ".") for entry in sys.path]
    return [folder / name for folder in above if (folder / name).is_dir()]


def is_module(name: str) -> bool:
    return name in sys.modules or source_file(name) is not None or bool(package_folders(name))


@dataclass(frozen=True)
class ImportableFunction:
    """The place that a function is imported from."""

    path: str  # `module:name`
    root: str  # the folder that contains its package, for a package that is not installed; "" if unknown

    @classmethod
    def from_path(cls, path: str) -> "ImportableFunction":
        package = path.partition(":")[0].partition(".")[0]
        file = getattr(sys.modules.get(package), "__file__", None)
        place = Path(file).resolve() if file else None
        root = "" if place is None else str(place.parent.parent if place.stem == "__init__" else place.parent)
        return cls(path, root)

    def load(self, *, code: str, described: Callable[[Any], str], to: str) -> Any:
        """Import it; refused if `described` of it is not `code`, its fingerprint where it was declared."""
        module, _, name = self.path.partition(":")
        add_project(module)
        try:
            function = getattr(self._import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise InputError(
                f"The function {self.path} cannot be imported where it is to {to}: {error}.",
                remedy="Install the project on the workers, or put the folder of its package on their PYTHONPATH.",
            ) from error
        if described(function) != code:
            raise InputError(
                f"The function {self.path} is other code where it is to {to} than where it was declared.",
                remedy="Install the same version of the project on the workers, and start the run again.",
            )
        return function

    def _import_module(self, name: str) -> Any:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            if not self.root or self.root in sys.path or not Path(self.root).is_dir():
                raise
            sys.path.append(self.root)
            importlib.invalidate_caches()
            return importlib.import_module(name)
