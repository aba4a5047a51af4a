"""Clean-up in a Spark worker after a task, so that the next one starts in milliseconds and not in a tenth of a second.

After every task Spark's daemon collects garbage, which visits all Python objects. Before every task its worker calls
`importlib.invalidate_caches`, which reads the whole directory of an archive on the module path again for every package
imported from it: that of `pyspark.zip`, unless Spark is local (see `python_daemon`). Measured with ONNX Runtime loaded:
10 to 80 ms and 70 to 280 ms of every task, depending on the load of the machine.
"""

import gc
import os
import sys
import zipimport

_frozen_by: int | None = None
"""Id of the process that has frozen its objects."""


def freeze_loaded() -> None:
    """Exclude all loaded objects from garbage collection, and drop the open archives of the module path.

    A later import opens one again with the directory that Python has cached: it does not change while a worker runs.
    """
    global _frozen_by
    if _frozen_by != os.getpid():  # the daemon froze fewer objects before it forked
        gc.collect()
        gc.freeze()
        _frozen_by = os.getpid()
    for path, finder in list(sys.path_importer_cache.items()):
        if isinstance(finder, zipimport.zipimporter):
            del sys.path_importer_cache[path]


def unpack_folder() -> str:
    """Folder in which a worker may unpack a model; Spark removes it when the application ends."""
    from pyspark import SparkFiles

    return SparkFiles.getRootDirectory()
