"""Examples of a training table at a Delta version that the gate judges by, and slices of them by a feature."""

from dataclasses import dataclass, replace
from datetime import date
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from forecache.errors import InputError
from forecache.inference.encoding import FeatureEncoding, MatrixEncoding
from forecache.lake.delta.dataset import open_dataset
from forecache.lake.training_sets.splits import label_numbers, open_with_columns, split_batches, training_classes
from forecache.pipeline import AS_OF, Pipeline
from forecache.pipeline.names import REQUEST_ID
from forecache.ranking import Sizes, sizes_of
from forecache.registry.gate.metrics import Array
from forecache.settings import Settings

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Examples:
    """Rows of one split.

    Attributes:
        features: float32 [n, width] with NaN for null.
        label: float64 [n]; for classes their positions.
        weight: float64 [n], None if the label has none.
        classes: Classes of the training set, in the order of the positions; empty if the label is a number.
        constant: The baseline's one answer for all rows, float64 [values]; None if the baseline is a feature.
        encoding: Meaning of the columns of `features`.
        sizes: For a real-time model, the number of rows of each request, int64 [requests]; requests are contiguous.
    """

    features: NDArray[np.float32]
    label: Array
    as_of: tuple[date, ...]
    encoding: MatrixEncoding
    weight: Array | None = None
    classes: tuple[str, ...] = ()
    constant: Array | None = None
    sizes: Sizes | None = None

    @property
    def units(self) -> int:
        """Number of rows, or of requests."""
        return len(self.label) if self.sizes is None else len(self.sizes)

    def of(self, rows: NDArray[np.bool_]) -> "Examples":
        """The rows of a mask [n], which has all rows of a request or none."""
        return replace(
            self,
            features=self.features[rows],
            label=self.label[rows],
            as_of=tuple(day for day, chosen in zip(self.as_of, rows, strict=False) if chosen),
            weight=None if self.weight is None else self.weight[rows],
            sizes=None if self.sizes is None else self.sizes[rows[np.cumsum(self.sizes) - self.sizes]],
        )

    def numbers(self, name: str) -> NDArray[np.float32]:
        """The column [n] of a feature that is one number, or the codes of a category."""
        column: NDArray[np.float32] = self.features[:, self.encoding.places[name].start]
        return column


def read_examples(
    settings: Settings,
    pipeline: Pipeline,
    *,
    table: str,
    version: int,
    split: str,
    features: tuple[str, ...] = (),
    encoding: MatrixEncoding | None = None,
) -> Examples:
    """One split of a training table at a version, in a fixed order, with `features` or else the pipeline's features.

    Args:
        encoding: The encoding of a model whose features are not all numbers; the matrix is made by it.

    Raises:
        NotFoundError: The table or the version does not exist.
        InputError: The table lacks a feature, or the split is empty.
    """
    import pyarrow.compute as pc

    names = features or pipeline.feature_names
    encoding = encoding or MatrixEncoding(tuple(FeatureEncoding(name, "number") for name in names))
    delta = open_with_columns(settings, table, names, version=version)
    columns = [*pipeline.key, AS_OF, *names, *pipeline.trained_label.columns]
    classes = training_classes(settings, pipeline, version=version, table=table)
    rows: pa.Table = open_dataset(delta).to_table(columns, filter=pc.field("split") == split)
    if not rows.num_rows:
        raise InputError(f"The split {split!r} of {table!r} is empty at version {version}.")
    rows = rows.sort_by([(name, "ascending") for name in (*pipeline.key, AS_OF)])
    matrix = encoding.matrix([rows.column(name) for name in names])
    label = label_numbers(rows.column(pipeline.trained_label.name).combine_chunks(), classes)
    weight = pipeline.trained_label.weight
    return Examples(
        matrix,
        label,
        tuple(rows.column(AS_OF).to_pylist()),
        encoding,
        rows.column(weight).to_numpy().astype(np.float64) if weight else None,
        classes,
        _constant(settings, pipeline, table, version, classes),
        sizes_of(rows.column(REQUEST_ID).to_numpy()) if pipeline.is_of_requests else None,
    )


def _constant(
    settings: Settings, pipeline: Pipeline, table: str, version: int, classes: tuple[str, ...]
) -> Array | None:
    """Class shares, or quantiles of the label, in the training split; None where baselines are features or an order."""
    if pipeline.task not in ("multiclass", "quantiles"):
        return None
    names = pipeline.trained_label.columns
    batches = list(split_batches(settings, table, version=version, split="train", columns=names))
    label = np.concatenate([label_numbers(batch.column(names[0]), classes) for batch in batches])
    weight = np.ones(len(label))
    if pipeline.trained_label.weight:
        weight = np.concatenate([batch.column(names[1]).to_numpy(zero_copy_only=False) for batch in batches])
    if classes:
        shares: Array = np.bincount(label.astype(np.int64), weight, minlength=len(classes)) / weight.sum()
        return shares
    found: Array = np.quantile(label, pipeline.output_specs[0].levels, weights=weight, method="inverted_cdf")
    return found
