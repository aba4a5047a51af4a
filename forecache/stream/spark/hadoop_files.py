"""Files on a disk or in an object store, through Hadoop's file system in Spark's driver."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


class HadoopFiles:
    """The file system of a folder or URI.

    Attributes:
        root: The folder's full URI.
    """

    def __init__(self, spark: "SparkSession", root: str) -> None:
        context: Any = spark.sparkContext
        self._jvm = context._jvm
        path = self._path(root)
        self._system = path.getFileSystem(context._jsc.hadoopConfiguration())
        self.root = str(self._system.makeQualified(path).toString())

    def numbers(self, folder: str) -> set[int]:
        """Return the entries of a folder whose names are numbers; none if there is no folder."""
        path = self._path(folder)
        if not self._system.exists(path):
            return set()
        names = [status.getPath().getName() for status in self._system.listStatus(path)]
        return {int(name) for name in names if name.isdigit()}

    def read(self, file: str) -> bytes | None:
        """Read a small file; None if it does not exist."""
        path = self._path(file)
        if not self._system.exists(path):
            return None
        stream = self._system.open(path)
        try:
            return bytes(self._jvm.org.apache.commons.io.IOUtils.toByteArray(stream))
        finally:
            stream.close()

    def remove(self, folder: str) -> None:
        """Remove a folder with its content, if it exists."""
        self._system.delete(self._path(folder), True)

    def _path(self, text: str) -> Any:
        return self._jvm.org.apache.hadoop.fs.Path(text)
