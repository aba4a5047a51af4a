"""Spark's Python daemon on this machine: it imports the installed pyspark, and not the archive of it.

The JVM puts `pyspark.zip` and a jar of thousands of classes on the path of its Python processes. Each of them would
compile pyspark anew, and each task would read the tables of contents of both.

It also imports what most tasks need before it forks workers. Otherwise each worker would take 0.8 seconds of CPU for
that, also those that Spark starts again after it has ended idle ones.
"""

import gc
import importlib
import os
import sys
from collections.abc import Sequence
from contextlib import suppress

_PRELOADED = (
    "pandas",
    "pyarrow.compute",
    "pyarrow.parquet",
    "forecache.inference.kernel",  # by name, and only to have it early: the lake knows nothing else of inference
    "forecache.lake.delta.spread",
    "forecache.lake.ingest.parsing",
)


def without_archives(path: Sequence[str]) -> list[str]:
    """A module path without what lies inside the pyspark that it has as a folder; as it is where it has none."""
    for folder in path:
        package = os.path.join(folder, "pyspark")
        if os.path.isfile(os.path.join(package, "__init__.py")):
            inside = os.path.join(os.path.realpath(package), "")
            return [entry for entry in path if not os.path.realpath(entry).startswith(inside)]
    return list(path)


def preload() -> None:
    """Import what most tasks need, and leave it out of the garbage collection after each task."""
    for name in _PRELOADED:
        with suppress(ImportError):  # an extra that is not installed; a task that needs it says so
            importlib.import_module(name)
    gc.collect()
    gc.freeze()


def main() -> None:
    """Serve Spark until it closes the standard input."""
    before = list(sys.path)
    sys.path[:] = without_archives(before)
    for entry in set(before) - set(sys.path):
        sys.path_importer_cache.pop(entry, None)
    from pyspark.daemon import manager

    preload()
    manager()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
