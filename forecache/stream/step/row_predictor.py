"""Predicts rows with a pipeline's model from features of events; each event gets the bits that it would get alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

import numpy as np
import pyarrow as pa

from forecache.base.errors import ForecacheError
from forecache.base.output_kinds import OutputSpec
from forecache.models.inference.kernel_spec import KernelSpec
from forecache.models.inference.outputs import score_values
from forecache.models.inference.runtimes.runtime import Kernel
from forecache.scoring.tasks.prediction_rows import Band, PredictionLayout, Stamp, file_schema, prediction_rows
from forecache.stream.step.batch_invariance import table_invariance_check

_NOBODY = Stamp("", -1, datetime(1970, 1, 1, tzinfo=timezone.utc), "")
_KEY = pa.field("", pa.int32())
"""Placeholder for the key in prediction rows, of which only the answers are used."""


@dataclass
class PredictedRows:
    """
    Attributes:
        rows: n rows; those without an answer are null.
        failed: Rows without an answer.
        failure: The error of the last of these.
    """

    rows: pa.Table
    failed: int = 0
    failure: str = ""


class RowPredictor:
    """Predicts rows with one loaded model.

    Args:
        name: Name of the pipeline.
        outputs, bands: See `forecache.scoring.tasks.prediction_rows.PredictionLayout`.
        schema: The columns of a row.
    """

    def __init__(
        self, name: str, kernel: Kernel, spec: KernelSpec, outputs: Sequence[OutputSpec], bands: Sequence[Band],
        schema: pa.Schema,
    ) -> None:  # fmt: skip
        self._kernel, self._spec, self._schema = kernel, spec, schema
        self._layout = PredictionLayout((_KEY.name,), tuple(outputs), tuple(bands))
        self._predicted = file_schema(self._layout, [_KEY])
        self._trial = table_invariance_check(f"model of {name}")

    def predict(self, features: np.ndarray) -> PredictedRows:
        """Predict the rows of features, float32 [n, d], in the order of the model's inputs."""
        if not len(features):
            return PredictedRows(self._schema.empty_table())

        def predict_alone(place: int) -> pa.Table:
            return self._predict_together(features[place : place + 1])

        try:
            return PredictedRows(
                self._trial.compute(len(features), lambda: self._predict_together(features), predict_alone)
            )
        except Exception:  # noqa: BLE001  # raised again below for the event that causes it
            return self._predict_one_by_one(len(features), predict_alone)

    def _predict_one_by_one(self, count: int, alone: Callable[[int], pa.Table]) -> PredictedRows:
        rows, failed, failure = [], 0, ""
        for place in range(count):
            try:
                rows.append(alone(place))
            except Exception as error:  # noqa: BLE001  # of the model's library: no event may stop a stream
                failed += 1
                failure = str(error) if isinstance(error, ForecacheError) else f"{type(error).__name__}: {error}"
                rows.append(pa.table([pa.nulls(1, each.type) for each in self._schema], schema=self._schema))
        return PredictedRows(pa.concat_tables(rows), failed, failure)

    def _predict_together(self, features: np.ndarray) -> pa.Table:
        arrays = [pa.array(features[:, place]) for place in range(features.shape[1])]
        values = score_values(self._kernel, self._spec, arrays, self._layout.outputs)
        key = pa.nulls(len(features), _KEY.type)
        found = prediction_rows(self._layout, [key], values, _NOBODY, -1, self._predicted)
        return pa.table([found.column(each.name).cast(each.type) for each in self._schema], schema=self._schema)
