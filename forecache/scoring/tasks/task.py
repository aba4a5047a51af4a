"""A task of a scoring job: reads rows of a feature file, scores them, and writes the parts of a shard.

Threads of the engine `arrow` and Spark's tasks run the same code. Runs inside Spark's Python workers, which report
their peak memory: imports neither pandas nor the declaration's modules.
"""

import os
import resource
import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from forecache.kit.delta.files import Place
from forecache.lake.provenance import Stamp
from forecache.models.inference.kernel import load_kernel, score_values
from forecache.models.inference.kernel_spec import KernelSpec
from forecache.scoring.tasks.prediction_file import open_output
from forecache.scoring.tasks.prediction_rows import PredictionLayout, file_schema, prediction_rows

if TYPE_CHECKING:
    from pyspark import Accumulator, SparkContext


@dataclass(frozen=True)
class Task:
    """Rows of a feature file, `first` to `first + rows`, and the folder of their predictions.

    Attributes:
        number: Of the task in its job. The names of its files are made of folder and number, so that a second attempt
            replaces them.
    """

    number: int
    path: str  # of the feature file, relative to its table
    version: int  # feature table version
    first: int
    rows: int
    folder: str  # relative to the prediction table


@dataclass(frozen=True)
class JobSpec:
    """The common specification of a job's tasks; it is small, because every task carries it."""

    features: Place
    predictions: Place
    kernel: KernelSpec
    inputs: tuple[str, ...]  # feature columns in the model's order
    layout: PredictionLayout
    stamp: Stamp
    batch_rows: int
    part_rows: int  # rows after which a file ends


class TaskScorer:
    """Scores tasks of a job in a process, with the model loaded and both tables open; threads may share it."""

    def __init__(self, spec: JobSpec, payload: Callable[[], bytes], folder: Callable[[], str]) -> None:
        """`payload` and `folder` as for `forecache.models.inference.kernel.load_kernel`."""
        self.spec = spec
        self._kernel = load_kernel(spec.kernel, payload, folder)
        self._features, self._predictions = spec.features.open(), spec.predictions.open()

    def score(self, task: Task, report: Callable[[int], object]) -> None:
        """Score a task into its files; `report` gets the rows of each batch as it is written.

        InputError if the features do not fit the model, CheckError if it returned another number of rows than it got.
        """
        spec = self.spec
        with self._features.open_input_file(task.path) as opened:
            parquet = pq.ParquetFile(opened)
            schema = file_schema(spec.layout, [parquet.schema_arrow.field(key) for key in spec.layout.key])
            batches = _rows(parquet, task, [*spec.layout.key, *spec.inputs], spec.batch_rows)
            batches_a_part = -(-spec.part_rows // spec.batch_rows)
            for part, first in enumerate(batches):
                name = f"{task.folder}/part-{task.number:05d}.c{part:03d}.snappy.parquet"
                with open_output(self._predictions, name, schema) as output:
                    for batch in chain([first], islice(batches, batches_a_part - 1)):
                        features = [_feature(batch, column) for column in spec.inputs]
                        keys = [batch.column(key) for key in spec.layout.key]
                        output.write(self.predict(keys, features, task.version, schema))
                        report(batch.num_rows)

    def predict(
        self, keys: Sequence[pa.Array], features: list[pa.Array], version: int, schema: pa.Schema
    ) -> pa.RecordBatch:
        """The prediction rows of a batch: key columns, and feature columns in the model's order, of a version of the
        feature table; with a schema from `file_schema`. Raises as `score`."""
        values = score_values(self._kernel, self.spec.kernel, features, self.spec.layout.outputs)
        return prediction_rows(self.spec.layout, keys, values, self.spec.stamp, version, schema)


def row_groups(metadata: pq.FileMetaData) -> list[range]:
    """The rows of a file that each of its row groups holds."""
    found, start = [], 0
    for i in range(metadata.num_row_groups):
        found.append(range(start, start + metadata.row_group(i).num_rows))
        start = found[-1].stop
    return found


def _rows(parquet: pq.ParquetFile, task: Task, columns: list[str], batch_rows: int) -> Iterator[pa.RecordBatch]:
    """Read the task's rows of those columns that the file has; row groups outside of these rows are not read."""
    last = task.first + task.rows
    groups = {
        i: rows
        for i, rows in enumerate(row_groups(parquet.metadata))
        if rows and rows.stop > task.first and rows.start < last
    }
    known = [name for name in columns if name in parquet.schema_arrow.names]
    read = parquet.iter_batches(batch_rows, row_groups=list(groups), columns=known, use_threads=False)
    start = min((rows.start for rows in groups.values()), default=0)
    return _slice_rows(read, task.first - start, last - start)


def _slice_rows(batches: Iterable[pa.RecordBatch], first: int, last: int) -> Iterator[pa.RecordBatch]:
    start = 0
    for batch in batches:
        low, high = max(first - start, 0), min(last - start, batch.num_rows)
        if low < high:
            yield batch.slice(low, high - low)
        start += batch.num_rows


def _feature(batch: pa.RecordBatch, name: str) -> pa.Array:
    # A feature declared after the file was written is unknown in it.
    return batch.column(name) if name in batch.schema.names else pa.nulls(batch.num_rows, pa.float32())


Peaks = dict[str, int]
"""Largest resident memory so far in bytes, by host and process."""


def peak_bytes() -> int:
    """The largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def own_peak() -> Peaks:
    return {f"{socket.gethostname()}:{os.getpid()}": peak_bytes()}


def merge_peaks(first: Peaks, second: Peaks) -> Peaks:
    """Merge two, with the larger peak of a process that is in both."""
    return first | {process: max(peak, first.get(process, 0)) for process, peak in second.items()}


def worker_peaks(context: "SparkContext") -> "Accumulator[Peaks]":
    """An accumulator to which the workers of a job add `own_peak()`."""
    from pyspark.accumulators import AccumulatorParam

    class PeaksParam(AccumulatorParam[Peaks]):
        def zero(self, value: Peaks) -> Peaks:
            return {}

        def addInPlace(self, value1: Peaks, value2: Peaks) -> Peaks:
            return merge_peaks(value1, value2)

    return context.accumulator({}, PeaksParam())
