"""The rows of one split of a training table at a Delta version, batch by batch and always in the same order."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from forecache.base.errors import InputError
from forecache.base.settings import Settings
from forecache.declare import Trainable
from forecache.kit.delta.dataset import open_dataset
from forecache.kit.delta.tables import open_table
from forecache.lake.contracts import class_order

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from deltalake import DeltaTable
    from numpy.typing import NDArray

BATCH_ROWS = 1 << 16
_SPLIT = "split"


def count_split(settings: Settings, table: str, *, version: int, split: str) -> int:
    """Rows of a split; reads the column `split` and nothing else."""
    import pyarrow.dataset as ds

    dataset = open_dataset(open_table(settings, table, version=version))
    return int(dataset.count_rows(filter=ds.field(_SPLIT) == split))


def training_classes(settings: Settings, pipeline: Trainable, *, version: int, table: str = "") -> tuple[str, ...]:
    """The classes of a training set's label at a version, in the order of a model's probabilities; () for a number."""
    if pipeline.trained_label.kind != "multiclass":
        return ()
    table, label = table or pipeline.training_table, pipeline.trained_label.name
    batches = split_batches(settings, table, version=version, split="train", columns=[label])
    found = {name for batch in batches for name in batch.column(label).unique().to_pylist()}
    return pipeline.output_specs[0].classes or class_order(list(found))


def label_numbers(column: "pa.Array", classes: Sequence[str]) -> "NDArray[np.float64]":
    """A label as numbers, float64 [n]; of classes the position of each, NaN for an unknown one."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    if not classes:
        return column.to_numpy(zero_copy_only=False).astype(np.float64)
    positions = pc.index_in(column, value_set=pa.array(classes, pa.string()))
    return positions.cast(pa.float64()).to_numpy(zero_copy_only=False)


def open_with_columns(settings: Settings, table: str, columns: Sequence[str], *, version: int) -> "DeltaTable":
    """Open a training table at a version; InputError if one of the columns is missing from it."""
    delta = open_table(settings, table, version=version)
    missing = set(columns) - {field.name for field in delta.schema().fields}
    if missing:
        raise InputError(
            f"The table {table!r} has no column {min(missing)!r} at version {version}.",
            remedy="A model can only be trained and judged on rows that have its features.",
        )
    return delta


def split_batches(
    settings: Settings, table: str, *, version: int, split: str, columns: Sequence[str]
) -> Iterator["pa.RecordBatch"]:
    """The columns of a split in batches of at most 65,536 rows: file after file by name, rows as they lie in it."""
    import pyarrow.dataset as ds

    dataset = open_dataset(open_with_columns(settings, table, columns, version=version))
    for fragment in sorted(dataset.get_fragments(), key=lambda fragment: str(fragment.path)):
        batches = fragment.to_batches(
            schema=dataset.schema,
            columns=list(columns),
            filter=ds.field(_SPLIT) == split,
            batch_size=BATCH_ROWS,
            fragment_readahead=1,
            batch_readahead=2,
        )
        yield from (batch for batch in batches if batch.num_rows)
