"""Checkpoints of Spark's queries: the offsets at which one resumes, and the choice of one that fits the table.

The offsets in the table are the truth. A checkpoint only says where Spark resumes, and the engine drops the events that
the table has. A checkpoint before the table's offsets costs reading again. One beyond them (of another stream, of a
table that was created again, from a backup of the wrong day) would lose events, and is replaced by a new one at the
table's offsets.

A query's folder is `<root>/<number>`; the highest number is the current one. Spark keeps there `offsets/<batch>`,
written before a batch, `commits/<batch>`, written after it, and `sources/0/0`, where the first batch starts.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from forecache.base.errors import UnavailableError
from forecache.kit.spark.session import spark_path

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


class HadoopFiles:
    """The file system of a folder or URI; `root` is its full URI."""

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


Offsets = Mapping[int, int]
"""By partition of the topic, the next offset to read."""


@dataclass(frozen=True)
class OffsetRange:
    """The offsets of a batch by partition: from `start` up to, and without, `end`."""

    start: Offsets
    end: Offsets


class Checkpoint:
    """The folder of one query."""

    def __init__(self, files: HadoopFiles, path: str, topic: str) -> None:
        self.path = path
        self._files, self._topic = files, topic

    def offsets_of_batch(self, batch: int) -> OffsetRange:
        """Return the offsets of a batch that Spark has planned; UnavailableError if its files do not have them."""
        end = self._offsets(f"offsets/{batch}")
        start = self._offsets(f"offsets/{batch - 1}") if batch else self._offsets("sources/0/0")
        if start is None or end is None:
            raise UnavailableError(
                f"The checkpoint {self.path} does not say which offsets batch {batch} has.",
                remedy="Start the stream again: it takes a new checkpoint at the offsets of its table.",
            )
        # A partition that is new to the topic is read from its beginning.
        return OffsetRange({partition: start.get(partition, 0) for partition in end}, end)

    def resume_offsets(self) -> Offsets | None:
        """Return the offsets at which the query resumes, None if it has not begun; raises as `offsets_of_batch`."""
        batches = self._files.numbers(f"{self.path}/offsets")
        if not batches:
            return None
        last = max(batches)
        span = self.offsets_of_batch(last)
        return span.end if last in self._files.numbers(f"{self.path}/commits") else span.start

    def _offsets(self, name: str) -> dict[int, int] | None:
        """Read offsets from a file of Spark: JSON in its last line, after a version and perhaps a batch's settings."""
        content = self._files.read(f"{self.path}/{name}")
        lines = (content or b"").decode(errors="replace").splitlines()
        try:
            found = json.loads(lines[-1])[self._topic]
            return {int(partition): int(offset) for partition, offset in found.items()}
        except (IndexError, KeyError, ValueError, TypeError, AttributeError):
            return None


def choose_checkpoint(
    spark: "SparkSession", root: str, topic: str, committed: Offsets, *, distrust: str = ""
) -> tuple[Checkpoint, str]:
    """Choose the newest checkpoint if it fits the table's offsets, else a new one; older ones are removed.

    Returns the checkpoint, and why the newest one was not used, or "". `distrust` says why it is not used in any case.
    `committed` are the offsets in the stream's table, and the first ones of partitions that are new to it.
    """
    files = HadoopFiles(spark, spark_path(root))
    numbers = files.numbers(files.root)
    newest = max(numbers, default=0)
    checkpoint = Checkpoint(files, f"{files.root}/{newest}", topic)
    if newest not in numbers:
        return checkpoint, ""
    reason = distrust or resume_problem(checkpoint, committed)
    if not reason:
        return checkpoint, ""
    for number in numbers - {newest}:
        files.remove(f"{files.root}/{number}")
    return Checkpoint(files, f"{files.root}/{newest + 1}", topic), reason


def resume_problem(checkpoint: Checkpoint, committed: Offsets) -> str:
    """Return why a query may not resume from a checkpoint; "" if it may."""
    try:
        resumes = checkpoint.resume_offsets()
    except UnavailableError as error:
        return error.message
    if resumes is None:
        return ""
    ahead = find_offset_beyond(resumes, committed)
    if not ahead:
        return ""
    partition, offset, known = ahead
    return (
        f"The checkpoint {checkpoint.path} resumes partition {partition} at offset {offset}, and the table has the"
        f" events before {known} only: the events between would be lost."
    )


def find_offset_beyond(start: Offsets, committed: Offsets) -> tuple[int, int, int] | None:
    """Return the first partition that starts beyond the table's offset, with both offsets; None if there is none."""
    for partition, offset in sorted(start.items()):
        known = committed.get(partition, 0)
        if offset > known:
            return partition, offset, known
    return None


def starting_offsets(topic: str, starts: Offsets) -> str:
    """Spark's option `startingOffsets` of a query without a checkpoint: an offset for each partition of the topic."""
    return json.dumps({topic: {str(partition): offset for partition, offset in sorted(starts.items())}})
