"""Checkpoints of Spark's queries: where one resumes, whether that fits the table, and which folder a query takes.

The offsets in the table are the truth, a checkpoint is none: it says where Spark resumes, and the engine drops what the
table has. One that resumes behind the table's offsets costs reading again. One that resumes beyond them (of another
stream, of a table that was made anew, from a backup of the wrong day) would lose events, and is left for a new one that
starts at the table's offsets.

A query's folder is `<root>/<number>`, of which the highest number counts. Spark keeps there `offsets/<batch>`, written
before a batch, `commits/<batch>`, written behind it, and `sources/0/0`, where the first batch starts.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from forecache.errors import UnavailableError
from forecache.lake.spark.session import spark_path
from forecache.stream.spark.hadoop_files import HadoopFiles

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

Offsets = Mapping[int, int]
"""By partition of the topic, the offset that is read next."""


@dataclass(frozen=True)
class Span:
    """The offsets of a batch by partition: from `start` up to, and without, `end`."""

    start: Offsets
    end: Offsets


class Checkpoint:
    """The folder of one query."""

    def __init__(self, files: HadoopFiles, path: str, topic: str) -> None:
        self.path = path
        self._files, self._topic = files, topic

    def span_of(self, batch: int) -> Span:
        """The offsets of a batch that Spark has planned.

        Raises:
            UnavailableError: Spark's files do not say.
        """
        end = self._offsets(f"offsets/{batch}")
        start = self._offsets(f"offsets/{batch - 1}") if batch else self._offsets("sources/0/0")
        if start is None or end is None:
            raise UnavailableError(
                f"The checkpoint {self.path} does not say which offsets batch {batch} has.",
                remedy="Start the stream again: it takes a new checkpoint at the offsets of its table.",
            )
        # A partition that is new to the topic is read from its beginning.
        return Span({partition: start.get(partition, 0) for partition in end}, end)

    def resumes_at(self) -> Offsets | None:
        """Where the query goes on; None where it has not begun.

        Raises:
            UnavailableError: Spark's files do not say.
        """
        batches = self._files.numbers(f"{self.path}/offsets")
        if not batches:
            return None
        last = max(batches)
        span = self.span_of(last)
        return span.end if last in self._files.numbers(f"{self.path}/commits") else span.start

    def _offsets(self, name: str) -> dict[int, int] | None:
        """The offsets in a file of Spark's: JSON in its last line, below a version and, of a batch, its settings."""
        content = self._files.read(f"{self.path}/{name}")
        lines = (content or b"").decode(errors="replace").splitlines()
        try:
            found = json.loads(lines[-1])[self._topic]
            return {int(partition): int(offset) for partition, offset in found.items()}
        except (IndexError, KeyError, ValueError, TypeError, AttributeError):
            return None


def checkpoint_for(
    spark: "SparkSession", root: str, topic: str, committed: Offsets, *, distrust: str = ""
) -> tuple[Checkpoint, str]:
    """The checkpoint that a query takes: the newest where it fits the table's offsets, else a new one.

    Those before the newest are removed.

    Args:
        root: Folder or URI of the stream's checkpoints.
        distrust: Why the newest is left in any case; "": it is judged by its offsets.
        committed: The offsets in the stream's table, and where the partitions begin that it does not know.

    Returns:
        The checkpoint, and why an older one was left; "" where none was.
    """
    files = HadoopFiles(spark, spark_path(root))
    numbers = files.numbers(files.root)
    newest = max(numbers, default=0)
    checkpoint = Checkpoint(files, f"{files.root}/{newest}", topic)
    if newest not in numbers:
        return checkpoint, ""
    reason = distrust or why_left(checkpoint, committed)
    if not reason:
        return checkpoint, ""
    for number in numbers - {newest}:
        files.remove(f"{files.root}/{number}")
    return Checkpoint(files, f"{files.root}/{newest + 1}", topic), reason


def why_left(checkpoint: Checkpoint, committed: Offsets) -> str:
    """Why a query may not resume from a checkpoint; "" where it may."""
    try:
        resumes = checkpoint.resumes_at()
    except UnavailableError as error:
        return error.message
    if resumes is None:
        return ""
    ahead = beyond(resumes, committed)
    if not ahead:
        return ""
    partition, offset, known = ahead
    return (
        f"The checkpoint {checkpoint.path} resumes partition {partition} at offset {offset}, and the table has the"
        f" events before {known} only: the events between would be lost."
    )


def beyond(start: Offsets, committed: Offsets) -> tuple[int, int, int] | None:
    """The first partition that starts beyond the table's offsets: the partition, where it starts, the table's."""
    for partition, offset in sorted(start.items()):
        known = committed.get(partition, 0)
        if offset > known:
            return partition, offset, known
    return None


def starting_offsets(topic: str, starts: Offsets) -> str:
    """Spark's option `startingOffsets` of a query without a checkpoint: an offset for each partition of the topic."""
    return json.dumps({topic: {str(partition): offset for partition, offset in sorted(starts.items())}})
