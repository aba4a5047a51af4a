"""Spark's Python daemon on this machine: it imports the installed pyspark instead of its archive.

The JVM puts `pyspark.zip` and a jar of thousands of classes on the module path of its Python processes. Each of these
would compile pyspark again, and each task would read the directories of both archives.

Before it forks workers, the daemon also imports the modules that most tasks need. Otherwise each worker would spend 0.8
seconds of CPU on that, also those that replace idle ones which Spark has ended.
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
    "forecache.models.inference.kernel",  # by name, and only to have it early: the lake knows nothing else of inference
    "forecache.plugins.estimators.runtimes",
    "forecache.kit.delta.writers",
)


def remove_archives(path: Sequence[str]) -> list[str]:
    """A module path without entries inside its installed pyspark folder; unchanged if it has no such folder."""
    for folder in path:
        package = os.path.join(folder, "pyspark")
        if os.path.isfile(os.path.join(package, "__init__.py")):
            inside = os.path.join(os.path.realpath(package), "")
            return [entry for entry in path if not os.path.realpath(entry).startswith(inside)]
    return list(path)


def preload() -> None:
    """Import the modules that most tasks need, and exclude them from the garbage collection after each task."""
    for name in _PRELOADED:
        with suppress(ImportError):  # an extra that is not installed; a task that needs it reports that
            importlib.import_module(name)
    gc.collect()
    gc.freeze()


def main() -> None:
    """Serve Spark until it closes the standard input."""
    before = list(sys.path)
    sys.path[:] = remove_archives(before)
    for entry in set(before) - set(sys.path):
        sys.path_importer_cache.pop(entry, None)
    from pyspark.daemon import manager

    preload()
    manager()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
