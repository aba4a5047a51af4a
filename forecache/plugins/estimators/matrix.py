"""A split of the training table as matrices in memory, filled batch by batch so that only one copy exists."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from forecache.base.errors import InputError
from forecache.base.ranking import sizes_of
from forecache.base.settings import Settings
from forecache.declare import Trainable
from forecache.lake.training_sets.split_rows import count_split, label_numbers, split_batches
from forecache.models.inference.encoding import MatrixEncoding


@dataclass(frozen=True)
class Matrix:
    """Rows of one split.

    Attributes:
        features: float32 [n, num_features], NaN for null.
        label: float32 [n]; of classes their positions.
        weight: float32 [n]; None if the label has no weight.
        sizes: Of a ranking, the number of rows of each request in the order of rows, int64 [requests].
    """

    features: NDArray[np.float32]
    label: NDArray[np.float32]
    weight: NDArray[np.float32] | None = None
    sizes: NDArray[np.int64] | None = None

    @property
    def weight_of_requests(self) -> NDArray[np.float32] | None:
        """float32 [requests]."""
        if self.weight is None or self.sizes is None:
            return None
        return self.weight[np.cumsum(self.sizes) - self.sizes]


def read_matrix(
    settings: Settings,
    pipeline: Trainable,
    encoding: MatrixEncoding,
    *,
    version: int,
    split: str,
    classes: Sequence[str] = (),
) -> Matrix:
    """Read a split in the table's order; it takes rows x (columns of the matrix + 1) x 4 bytes.

    Raises:
        NotFoundError: The table or the version does not exist.
        InputError: A column is missing, the split is empty or larger than the machine's memory, or a label is null.
    """
    table, names, label = pipeline.training_table, pipeline.feature_names, pipeline.trained_label.name
    rows = count_split(settings, table, version=version, split=split)
    if not rows:
        raise InputError(
            f"The split {split!r} of {table!r} has no row at version {version}.",
            remedy="Build the training set for an as-of date with enough history.",
        )
    _require_memory(rows * (encoding.width + 1) * 4, rows, split)
    weight = pipeline.trained_label.weight
    matrix = Matrix(
        np.empty((rows, encoding.width), np.float32),
        np.empty(rows, np.float32),
        np.empty(rows, np.float32) if weight else None,
    )
    start, ranked = 0, pipeline.task == "ranking"
    requests: list[NDArray[np.object_]] = []
    columns = [*names, *pipeline.trained_label.columns, *([pipeline.group_column] if ranked else [])]
    for batch in split_batches(settings, table, version=version, split=split, columns=columns):
        stop = start + batch.num_rows
        if batch.column(label).null_count:
            raise InputError(
                f"The label {label!r} is null in {batch.column(label).null_count} rows of {table!r}.",
                remedy="The label's function must leave out entities without a value: build the training set again.",
            )
        matrix.features[start:stop] = encoding.matrix([batch.column(name) for name in names])
        matrix.label[start:stop] = label_numbers(batch.column(label), classes)
        if matrix.weight is not None:
            matrix.weight[start:stop] = batch.column(weight).to_numpy(zero_copy_only=False)
        if ranked:
            requests.append(batch.column(pipeline.group_column).to_numpy(zero_copy_only=False))
        start = stop
    assert start == rows
    return replace(matrix, sizes=sizes_of(np.concatenate(requests))) if ranked else matrix


def machine_memory_bytes() -> int:
    """The size of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _require_memory(wanted: int, rows: int, split: str) -> None:
    have = machine_memory_bytes()
    if wanted > have:
        raise InputError(
            f"The split {split!r} has {rows:,} rows, {wanted / (1 << 30):.1f} GiB as float32, and this machine has "
            f"{have / (1 << 30):.1f} GiB of memory.",
            remedy="An estimator is fitted in memory: use fewer training dates, a larger machine, or a torch network.",
        )
