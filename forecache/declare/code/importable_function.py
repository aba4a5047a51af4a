"""Functions of a project that another process imports by name, and refuses if their code differs there."""

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forecache.base.errors import InputError
from forecache.declare.code.location import add_project


@dataclass(frozen=True)
class ImportableFunction:
    """The place that a function is imported from.

    Attributes:
        path: `module:name`.
        root: The folder that contains its package, for a package that is not installed; "" if unknown.
    """

    path: str
    root: str

    @classmethod
    def from_path(cls, path: str) -> "ImportableFunction":
        """A function by its path; its module is loaded here."""
        package = path.partition(":")[0].partition(".")[0]
        file = getattr(sys.modules.get(package), "__file__", None)
        place = Path(file).resolve() if file else None
        root = "" if place is None else str(place.parent.parent if place.stem == "__init__" else place.parent)
        return cls(path, root)

    def load(self, *, code: str, described: Callable[[Any], str], to: str) -> Any:
        """Import it.

        Args:
            code: The fingerprint of the function in the process that declared it.
            described: Computes the fingerprint of a function.
            to: What it is imported for, such as "score".

        Raises:
            InputError: It cannot be imported here, or its code differs from that of the declaring process.
        """
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
