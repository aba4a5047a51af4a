"""A piece of a scoring job: rows of a feature file, through the model, into the parts of a shard.

A thread of the engine without a JVM and a task of Spark's do the same here. Runs inside Spark's Python workers: imports
neither pandas nor the declaration's modules.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice

import pyarrow as pa
import pyarrow.parquet as pq

from forecache.inference.kernel import load_kernel
from forecache.inference.kernel_spec import KernelSpec
from forecache.inference.outputs import score_values
from forecache.lake.delta.files import Place
from forecache.scoring.tasks.parquet_files import open_output
from forecache.scoring.tasks.prediction_rows import Layout, Stamp, prediction_columns, prediction_rows


@dataclass(frozen=True)
class Piece:
    """Rows of a feature file, `first` to `first + rows`, and where their predictions go.

    Attributes:
        number: Of the piece in its job; with the folder it names the files, whoever scores it and however often.
        path: Of the feature file, relative to its table.
        version: Feature table version.
        folder: Relative to the prediction table.
    """

    number: int
    path: str
    version: int
    first: int
    rows: int
    folder: str


@dataclass(frozen=True)
class Recipe:
    """What the pieces of a job have in common; small, it travels with every task.

    Attributes:
        inputs: Feature columns in the model's order.
        part_rows: Rows after which a file ends.
    """

    features: Place
    predictions: Place
    spec: KernelSpec
    inputs: tuple[str, ...]
    layout: Layout
    stamp: Stamp
    batch_rows: int
    part_rows: int


class Scorer:
    """A recipe in a process: the model loaded, both tables' file systems open; threads may share it."""

    def __init__(self, recipe: Recipe, payload: Callable[[], bytes], folder: Callable[[], str]) -> None:
        """`payload` and `folder` as for `forecache.inference.kernel.load_kernel`."""
        self._recipe = recipe
        self._kernel = load_kernel(recipe.spec, payload, folder)
        self._source, self._target = recipe.features.open(), recipe.predictions.open()

    def score(self, piece: Piece, tell: Callable[[int], object]) -> None:
        """Score a piece into its files; `tell` gets the rows of each batch as it is written.

        Raises:
            InputError: The features do not fit the model.
            CheckError: The model returned other rows than it was given.
            UnavailableError: No space is left on the device.
        """
        recipe = self._recipe
        with self._source.open_input_file(piece.path) as opened:
            parquet = pq.ParquetFile(opened)
            stored = set(parquet.schema_arrow.names)
            schema = prediction_columns(recipe.layout, [parquet.schema_arrow.field(key) for key in recipe.layout.key])
            batches = _rows(parquet, piece, [*recipe.layout.key, *recipe.inputs], recipe.batch_rows)
            batches_a_part = -(-recipe.part_rows // recipe.batch_rows)
            for part, first in enumerate(batches):
                name = f"{piece.folder}/part-{piece.number:05d}.c{part:03d}.snappy.parquet"
                with open_output(self._target, name, schema) as output:
                    for batch in chain([first], islice(batches, batches_a_part - 1)):
                        features = [_feature(batch, column, stored) for column in recipe.inputs]
                        values = score_values(self._kernel, recipe.spec, features, recipe.layout.output)
                        identity = [batch.column(key) for key in recipe.layout.key]
                        rows = prediction_rows(recipe.layout, identity, values, recipe.stamp, piece.version, schema)
                        output.write(rows)
                        tell(batch.num_rows)


def row_groups(metadata: pq.FileMetaData) -> list[range]:
    """The rows of a file that each of its row groups holds."""
    found, start = [], 0
    for i in range(metadata.num_row_groups):
        found.append(range(start, start + metadata.row_group(i).num_rows))
        start = found[-1].stop
    return found


def _rows(parquet: pq.ParquetFile, piece: Piece, columns: list[str], batch_rows: int) -> Iterator[pa.RecordBatch]:
    """The piece's rows of the columns that the file has; row groups without any of them are not read."""
    last = piece.first + piece.rows
    groups = {
        i: rows
        for i, rows in enumerate(row_groups(parquet.metadata))
        if rows and rows.stop > piece.first and rows.start < last
    }
    known = [name for name in columns if name in parquet.schema_arrow.names]
    read = parquet.iter_batches(batch_rows, row_groups=list(groups), columns=known, use_threads=False)
    start = min((rows.start for rows in groups.values()), default=0)
    return _between(read, piece.first - start, last - start)


def _between(batches: Iterable[pa.RecordBatch], first: int, last: int) -> Iterator[pa.RecordBatch]:
    start = 0
    for batch in batches:
        low, high = max(first - start, 0), min(last - start, batch.num_rows)
        if low < high:
            yield batch.slice(low, high - low)
        start += batch.num_rows


def _feature(batch: pa.RecordBatch, name: str, stored: set[str]) -> pa.Array:
    # A feature declared after the file was written is unknown in it.
    return batch.column(name) if name in stored else pa.nulls(batch.num_rows, pa.float32())
