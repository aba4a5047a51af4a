"""Import of pyarrow without pandas, for processes that do not use pandas.

If pandas is installed, pyarrow imports it at the first array, to check if the array is made from a pandas object: 0.3 s
and 35 MB for each process of a stream. It tries only once; `to_pandas` still imports pandas later.
"""

import sys
from typing import Any


class _PandasBlocker:
    """Import finder that reports pandas as not installed."""

    @staticmethod
    def find_spec(name: str, *_: Any) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("pandas is not looked for now", name=name)


def hide_pandas_from_arrow() -> None:
    """Let pyarrow look for pandas now and not find it, unless this process has imported pandas.

    Call it before other threads run, in a process that gives pyarrow no pandas objects.
    """
    if "pandas" in sys.modules:
        return
    sys.meta_path.insert(0, _PandasBlocker)
    try:
        import pyarrow as pa

        pa.array([0])
    finally:
        sys.meta_path.remove(_PandasBlocker)
