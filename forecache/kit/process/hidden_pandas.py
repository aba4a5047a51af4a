"""Pandas hidden from pyarrow, which imports it with its first array, until something else in the process imports it."""

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType


class _PandasFinder:
    """Import finder that reports pandas as not installed, and later tells pyarrow when pandas is imported."""

    def __init__(self) -> None:
        self.is_hidden = True

    def find_spec(self, name: str, *_: object) -> ModuleSpec | None:
        if name != "pandas":
            return None
        if self.is_hidden:
            raise ModuleNotFoundError("pandas is not looked for now", name=name)
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_show(module: ModuleType) -> None:
                execute(module)
                _convert_to_pandas()

            spec.loader.exec_module = execute_and_show  # type: ignore[method-assign]
        return spec


def hide_pandas_from_arrow() -> None:
    """Let pyarrow look for pandas now and not find it, unless this process has imported pandas.

    If pandas is installed, pyarrow imports it at the first array, to check if the array is made from a pandas object:
    0.3 s and 35 MB. It tries only once by itself, and again where something is converted to pandas. So that it knows
    pandas objects from then on, as if nothing was hidden, something is converted as soon as pandas is imported. Call it
    before other threads run.
    """
    if "pandas" in sys.modules:
        return
    finder = _PandasFinder()
    sys.meta_path.insert(0, finder)
    import pyarrow as pa

    pa.array([0])
    finder.is_hidden = False


def _convert_to_pandas() -> None:
    import pyarrow as pa

    pa.array([0]).to_pandas()
