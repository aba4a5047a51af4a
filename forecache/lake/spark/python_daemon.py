"""Spark's Python daemon on this machine: it imports the installed pyspark, and not the archive of it.

The JVM puts `pyspark.zip` and a jar of thousands of classes on the path of its Python processes. Each of them would
compile pyspark anew, and each task would read the tables of contents of both.
"""

import os
import sys
from collections.abc import Sequence


def without_archives(path: Sequence[str]) -> list[str]:
    """A module path without what lies inside the pyspark that it has as a folder; as it is where it has none."""
    for folder in path:
        package = os.path.join(folder, "pyspark")
        if os.path.isfile(os.path.join(package, "__init__.py")):
            inside = os.path.join(os.path.realpath(package), "")
            return [entry for entry in path if not os.path.realpath(entry).startswith(inside)]
    return list(path)


def main() -> None:
    """Serve Spark until it closes the standard input."""
    before = list(sys.path)
    sys.path[:] = without_archives(before)
    for entry in set(before) - set(sys.path):
        sys.path_importer_cache.pop(entry, None)
    from pyspark.daemon import manager

    manager()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
