"""What a Spark worker does after a task so that the next one starts in milliseconds and not in a tenth of a second.

After every task Spark's daemon walks over all Python objects. Before every task its worker calls
`importlib.invalidate_caches`, which reads the whole directory of an archive on the module path again for every package
imported from it: of `pyspark.zip`, wherever the cluster is not this machine (see `python_daemon`). Measured with ONNX
Runtime loaded: 10 to 80 ms and 70 to 280 ms of every task, by how busy the machine is.
"""

import gc
import os
import sys
import zipimport

_frozen_by: int | None = None
"""The process that has frozen what it loaded."""


def freeze_loaded() -> None:
    """Leave what is loaded by now out of garbage collection, and forget the open archives of the module path.

    A later import opens an archive again, from the directory that Python keeps of it: an archive does not change under
    a running worker.
    """
    global _frozen_by
    if _frozen_by != os.getpid():  # what the daemon froze before it forked is less
        gc.collect()
        gc.freeze()
        _frozen_by = os.getpid()
    for path, finder in list(sys.path_importer_cache.items()):
        if isinstance(finder, zipimport.zipimporter):
            del sys.path_importer_cache[path]


def unpack_folder() -> str:
    """Where a worker may unpack a model; Spark removes it with the application."""
    from pyspark import SparkFiles

    return SparkFiles.getRootDirectory()
