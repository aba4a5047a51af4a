"""Examples of a training table at a Delta version that the gate judges by, and slices of them by a feature."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from forecache.base.errors import InputError
from forecache.base.ranking import Sizes, sizes_of
from forecache.base.settings import Settings
from forecache.declare import AS_OF, Trainable
from forecache.kit.delta.dataset import open_dataset
from forecache.lake.split_rows import label_numbers, open_with_columns, split_batches, training_classes
from forecache.models.inference.encoding import FIRST_CODE, NULL_CODE, UNKNOWN_CODE, FeatureEncoding, MatrixEncoding
from forecache.models.registry.gate.score_metrics import Array

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class SplitExamples:
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
    def num_units(self) -> int:
        """Number of rows, or of requests."""
        return len(self.label) if self.sizes is None else len(self.sizes)

    def select(self, rows: NDArray[np.bool_]) -> "SplitExamples":
        """The rows of a mask [n], which has all rows of a request or none."""
        return replace(
            self,
            features=self.features[rows],
            label=self.label[rows],
            as_of=tuple(day for day, chosen in zip(self.as_of, rows, strict=False) if chosen),
            weight=None if self.weight is None else self.weight[rows],
            sizes=None if self.sizes is None else self.sizes[rows[np.cumsum(self.sizes) - self.sizes]],
        )

    def feature_column(self, name: str) -> NDArray[np.float32]:
        """The column [n] of a feature that is one number, or the codes of a category."""
        column: NDArray[np.float32] = self.features[:, self.encoding.places[name].start]
        return column


def read_examples(
    settings: Settings,
    pipeline: Trainable,
    *,
    table: str,
    version: int,
    split: str,
    features: tuple[str, ...] = (),
    encoding: MatrixEncoding | None = None,
) -> SplitExamples:
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
    return SplitExamples(
        matrix,
        label,
        tuple(rows.column(AS_OF).to_pylist()),
        encoding,
        rows.column(weight).to_numpy().astype(np.float64) if weight else None,
        classes,
        _constant_answer(settings, pipeline, table, version, classes),
        sizes_of(rows.column(pipeline.group_column).to_numpy()) if pipeline.group_column else None,
    )


def _constant_answer(
    settings: Settings, pipeline: Trainable, table: str, version: int, classes: tuple[str, ...]
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


def slices_of(examples: SplitExamples, name: str) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Names and masks [n] of the slices of a feature: those of `slices`, or each category. Requests are sliced by the
    first row of each."""
    feature, values = examples.encoding.features[examples.encoding.names.index(name)], examples.feature_column(name)
    if examples.sizes is not None:
        values = np.repeat(values[np.cumsum(examples.sizes) - examples.sizes], examples.sizes)
    if feature.type != "category":
        yield from slices(values)
        return
    names = {NULL_CODE: "null", UNKNOWN_CODE: "not known to the model"}
    names |= dict(enumerate(feature.categories, FIRST_CODE))
    yield from ((names[int(code)], values == code) for code in np.unique(values))


def slices(values: NDArray[np.float32]) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Names and masks [n] of a column's distinct values if there are at most six, else of its quarters; NaN apart."""
    unknown = np.isnan(values)
    known = values[~unknown]
    distinct = np.unique(known)
    if len(distinct) <= 6:
        yield from ((f"{value:g}", values == value) for value in distinct)
    else:
        edges = np.unique(np.quantile(known[np.isfinite(known)], [0, 0.25, 0.5, 0.75, 1]))
        edges[0], edges[-1] = distinct[0], distinct[-1]  # which may be infinite
        for number, (low, high) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
            last = number == len(edges) - 2
            rows = (values >= low) & ((values <= high) if last else (values < high))
            yield f"{low:.4g} to {high:.4g}", rows
    if unknown.any():
        yield "unknown", unknown
