"""Pandas hidden from pyarrow, which imports it with its first array, until something else in the process imports it."""

import importlib.util
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType


class _AfterImport:
    """Import finder that calls an action as soon as a library has been imported, once."""

    def __init__(self, library: str, action: Callable[[], None]) -> None:
        self.library = library
        self.action = action

    def find_spec(self, name: str, *_: object) -> ModuleSpec | None:
        if name != self.library:
            return None
        place = sys.meta_path.index(self)
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(place, self)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_act(module: ModuleType) -> None:
                execute(module)
                if self in sys.meta_path:
                    sys.meta_path.remove(self)
                    self.action()

            spec.loader.exec_module = execute_and_act  # type: ignore[method-assign]
        return spec


class _HiddenPandas:
    """Import finder that reports pandas as not installed."""

    def find_spec(self, name: str, *_: object) -> ModuleSpec | None:
        if name == "pandas":
            raise ModuleNotFoundError("pandas is not looked for now", name=name)
        return None


def hide_pandas_from_arrow() -> None:
    """Let pyarrow, as soon as it is imported, look for pandas and not find it, unless this process has imported pandas.

    If pandas is installed, pyarrow imports it at the first array, to check if the array is made from a pandas object:
    0.3 s and 35 MB. It tries only once by itself, and again where something is converted to pandas. So that it knows
    pandas objects from then on, as if nothing was hidden, something is converted as soon as pandas is imported. Call it
    before other threads run; it imports nothing itself.
    """
    if "pandas" in sys.modules or any(isinstance(finder, _AfterImport) for finder in sys.meta_path):
        return
    if sys.modules.get("pyarrow") is not None:
        _hide()
    else:
        sys.meta_path.insert(0, _AfterImport("pyarrow", _hide))


def _hide() -> None:
    import pyarrow as pa

    if "pandas" in sys.modules:
        return
    hidden = _HiddenPandas()
    sys.meta_path.insert(0, hidden)
    try:
        pa.array([0])
    finally:
        sys.meta_path.remove(hidden)
    sys.meta_path.insert(0, _AfterImport("pandas", _convert_to_pandas))


def _convert_to_pandas() -> None:
    import pyarrow as pa

    pa.array([0]).to_pandas()
