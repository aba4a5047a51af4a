"""Arrow without pandas, in processes that have no use for pandas.

Where pandas is installed, pyarrow imports it at the first array, to see whether that is made from one of its objects:
0.3 s and 35 MB for each process of a stream. It looks once; `to_pandas` imports pandas later all the same.
"""

import sys
from typing import Any


class _NoPandas:
    """Finds no pandas."""

    @staticmethod
    def find_spec(name: str, *_: Any) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("pandas is not looked for now", name=name)


def arrow_without_pandas() -> None:
    """Have pyarrow look for pandas now and find none, unless this process has imported it.

    Called before other threads run, by a process that gives pyarrow no object of pandas.
    """
    if "pandas" in sys.modules:
        return
    sys.meta_path.insert(0, _NoPandas)
    try:
        import pyarrow as pa

        pa.array([0])
    finally:
        sys.meta_path.remove(_NoPandas)
