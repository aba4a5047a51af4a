"""The rows that a model is judged on, and a registered model that scores them by the same kernel as in scoring."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from forecache.base.errors import InputError
from forecache.base.output_kinds import OutputSpec
from forecache.base.ranking import Sizes, sizes_of
from forecache.base.settings import Settings
from forecache.declare import AS_OF, Trainable
from forecache.kit.delta.dataset import open_dataset
from forecache.lake.split_rows import label_numbers, open_with_columns, split_batches, training_classes
from forecache.models.inference.choose_runtime import plan_scoring
from forecache.models.inference.encoding import (
    ENCODING,
    FIRST_CODE,
    NULL_CODE,
    UNKNOWN_CODE,
    FeatureEncoding,
    MatrixEncoding,
    find_encoding,
)
from forecache.models.inference.kernel import load_kernel
from forecache.models.inference.kernel_spec import KernelSpec
from forecache.models.inference.outputs import known_outputs, returned_values, source_of
from forecache.models.inference.runtimes.runtime import Kernel
from forecache.models.registry.gate.score_metrics import Array, map_classes
from forecache.models.registry.model_versions import ModelVersion, judged_folder
from forecache.models.tracking.artifacts import scratch_folder

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class SplitExamples:
    """Rows of one split.

    Attributes:
        classes: Classes of the training set, in the order of the positions; empty if the label is a number.
        constants: Constant predictors by name, each the same answer for all rows: a number, or float64 [values]. They
            are learned from the training split.
        sizes: For a real-time model, the number of rows of each request, int64 [requests]; requests are contiguous.
    """

    features: NDArray[np.float32]  # float32 [n, width] with NaN for null
    label: Array  # float64 [n]; for classes their positions
    as_of: tuple[date, ...]
    encoding: MatrixEncoding  # meaning of the columns of `features`
    weight: Array | None = None  # float64 [n], None if the label has none
    classes: tuple[str, ...] = ()
    constants: Mapping[str, "float | Array"] = field(default_factory=dict)
    sizes: Sizes | None = None

    @property
    def num_units(self) -> int:
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

    NotFoundError without the table or the version, InputError if it lacks a column, or the split is empty. Features
    that are not all numbers become a matrix by the model's `encoding`.
    """
    import pyarrow.compute as pc

    names = features or pipeline.feature_names
    encoding = encoding or MatrixEncoding(tuple(FeatureEncoding(name, "number") for name in names))
    columns = [*pipeline.key, AS_OF, *names, *pipeline.trained_label.columns]
    delta = open_with_columns(settings, table, columns, version=version)
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
        _learn_constants(settings, pipeline, table, version, classes),
        sizes_of(rows.column(pipeline.group_column).to_numpy()) if pipeline.group_column else None,
    )


def _learn_constants(
    settings: Settings, pipeline: Trainable, table: str, version: int, classes: tuple[str, ...]
) -> dict[str, "float | Array"]:
    """The constant predictors of the label, learned from the training split; none of a ranking."""
    if pipeline.task == "ranking":
        return {}
    names = pipeline.trained_label.columns
    batches = list(split_batches(settings, table, version=version, split="train", columns=names))
    label = np.concatenate([label_numbers(batch.column(names[0]), classes) for batch in batches])
    weight = np.ones(len(label))
    if pipeline.trained_label.weight:
        weight = np.concatenate([batch.column(names[1]).to_numpy(zero_copy_only=False) for batch in batches])

    def quantiles(levels: Sequence[float]) -> Array:
        found: Array = np.quantile(label, levels, weights=weight, method="inverted_cdf")
        return found

    if pipeline.task == "multiclass":
        return {"class shares": np.bincount(label.astype(np.int64), weight, minlength=len(classes)) / weight.sum()}
    if pipeline.task == "quantiles":
        return {"empirical quantiles": quantiles(pipeline.output_specs[0].levels)}
    mean = float(np.average(label, weights=weight))
    if pipeline.task == "binary":
        return {f"{mean:.4g}, the share of positive labels": mean}
    median = float(quantiles([0.5])[0])
    return {f"{mean:.4g}, the mean": mean, f"{median:.4g}, the median": median}


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


_BATCH_ROWS = 1 << 16


@dataclass(frozen=True)
class CandidateModel:
    """A model that is ready to score, as in scoring: runtime, session options, bounds and casts.

    With an encoding, of features that are not all numbers, this kernel takes the encoded matrix.
    """

    kernel: Kernel
    spec: KernelSpec
    output: OutputSpec  # the output to score, with the classes that the model knows
    size_bytes: int  # size of the model that a scoring worker loads
    encoding: MatrixEncoding | None = None

    @property
    def output_name(self) -> str:
        """The output's name in the model itself."""
        return self.spec.outputs[source_of(self.spec, self.output)[0]].name

    def input_names(self, features: Sequence[str]) -> tuple[str, ...]:
        """The model's features in its order; `features` if its signature names none."""
        return self.encoding.names if self.encoding else self.spec.inputs or tuple(features)

    def predict(self, features: NDArray[np.float32]) -> NDArray[Any]:
        """Scores for features float32 [n, num_features], NaN for unknown, the columns in the model's order: numbers
        [n], probabilities of classes [n, classes], or quantiles [n, levels]."""
        # A copy, as a model may write into its input. A matrix, as requests are scored one by one: each of thousands
        # would become as many Arrow arrays as there are features.
        returned = self.kernel.run_matrix(np.array(features, np.float32, order="C"))
        return returned_values(self.spec, returned, len(features), [self.output])[0]


def open_model(folder: Path, output: OutputSpec) -> CandidateModel:
    """Load the model in an MLflow model folder; its only output is used, whatever it is called.

    NotFoundError without a model, InputError if it needs another version of its inference package than the one
    installed, has several outputs and none of that name, or knows other classes.
    """
    plan = plan_scoring(str(folder), outputs=[output])
    encoding = find_encoding(plan.spec.options)
    spec = plan.spec if encoding is None else _spec_for_matrix(plan.spec, encoding)
    with tempfile.TemporaryDirectory(dir=scratch_folder()) as unpacked:
        kernel = load_kernel(spec, lambda: plan.payload, lambda: unpacked)
    (known,) = known_outputs([output], spec)
    return CandidateModel(kernel, spec, known, len(plan.payload), encoding)


def open_judged_model(
    settings: Settings, pipeline: Trainable, version: ModelVersion, training_table: tuple[str, int]
) -> tuple[CandidateModel, SplitExamples]:
    """Load the model of a version that the gate judges, and read the test split of a training table for it.

    The table is given by name and Delta version. Raises what `open_model`, `read_examples` and `judged_folder` do.
    """
    model = open_model(judged_folder(settings, version), pipeline.main_output.spec)
    table, table_version = training_table
    features = model.input_names(version.features)
    examples = read_examples(
        settings, pipeline, table=table, version=table_version, split="test", features=features, encoding=model.encoding
    )
    return model, examples


def _spec_for_matrix(spec: KernelSpec, encoding: MatrixEncoding) -> KernelSpec:
    """The kernel without its encoding step: examples are encoded once, and not for each metric."""
    options = {name: value for name, value in spec.options.items() if name != ENCODING}
    return replace(
        spec, inputs=encoding.columns, width=encoding.width, options=options, checksum=f"{spec.checksum} matrix"
    )


def score_features(
    model: CandidateModel,
    features: NDArray[np.float32],
    classes: Sequence[str] = (),
    sizes: NDArray[np.int64] | None = None,
) -> Array:
    """Scores float64, as `CandidateModel.predict` returns them, for features float32 [n, num_features], with the
    classes in the wanted order. With `sizes`, the rows of each request, requests are scored one by one, as in
    serving."""
    ends = np.arange(_BATCH_ROWS, len(features), _BATCH_ROWS) if sizes is None else np.cumsum(sizes)[:-1]
    parts = [model.predict(rows) for rows in np.split(features, ends)]
    scores: Array = np.concatenate(parts).astype(np.float64)
    return map_classes(scores, model.output.classes, classes) if classes else scores
