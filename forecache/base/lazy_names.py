"""Names of a package that load when they are first used, so that importing the package stays free."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def list_homes(modules: Mapping[str, str]) -> dict[str, str]:
    """The module of each name, from the names of each module, separated by spaces."""
    return {name: module for module, names in modules.items() for name in names.split()}


def load_lazily(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a package; `homes` has the module of each name."""

    def load(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(homes[name]), name)

    return load
