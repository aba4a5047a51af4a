"""Answers events with the model of a pipeline: its champion, or the applied model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

import numpy as np
import pyarrow as pa

from forecache.base.output_kinds import OutputSpec
from forecache.base.settings import Settings
from forecache.declare import Pipeline
from forecache.lake.provenance import Stamp
from forecache.models.inference.kernel import load_kernel, score_values
from forecache.models.inference.kernel_spec import KernelSpec
from forecache.models.inference.outputs import known_outputs
from forecache.models.inference.runtimes.runtime import Kernel
from forecache.models.registry.applied.pipeline_models import scoring_model
from forecache.models.registry.applied.scoring_plan import plan_model
from forecache.models.registry.model_versions import ModelVersion, model_version
from forecache.models.tracking.artifacts import scratch_folder
from forecache.plugins.stream_answers.batch_answers import UsedFeatures, describe_error, table_invariance_check
from forecache.scoring.tasks.prediction_rows import (
    Band,
    PredictionLayout,
    file_schema,
    layout_of,
    prediction_rows,
)
from forecache.stream.step import Answerer, EventAnswers
from forecache.stream.table.schema import output_fields
from forecache.stream.tiles.view_tiles import ViewFeatures

_NOBODY = Stamp("", -1, datetime(1970, 1, 1, tzinfo=timezone.utc), "")
_KEY = pa.field("", pa.int32())  # placeholder for the key in prediction rows, of which only the answers are used


@dataclass
class PredictedRows:
    rows: pa.Table  # those without an answer are null
    failed: int = 0
    failure: str = ""  # the error of the last row without an answer


class RowPredictor:
    """Predicts rows of a schema with the loaded model of the pipeline `name`."""

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
                failure = describe_error(error)
                rows.append(pa.table([pa.nulls(1, each.type) for each in self._schema], schema=self._schema))
        return PredictedRows(pa.concat_tables(rows), failed, failure)

    def _predict_together(self, features: np.ndarray) -> pa.Table:
        arrays = [pa.array(features[:, place]) for place in range(features.shape[1])]
        values = score_values(self._kernel, self._spec, arrays, self._layout.outputs)
        key = pa.nulls(len(features), _KEY.type)
        found = prediction_rows(self._layout, [key], values, _NOBODY, -1, self._predicted)
        return pa.table([found.column(each.name).cast(each.type) for each in self._schema], schema=self._schema)


@dataclass(frozen=True)
class _LoadedModel:
    version: ModelVersion
    inputs: tuple[str, ...]
    rows: RowPredictor


class PipelineAnswerer(Answerer):
    """Answers with the champion or the applied model."""

    look_every_s = 10.0  # each call queries MLflow

    def __init__(self, settings: Settings, pipeline: Pipeline, number: int | None) -> None:
        self._settings, self._pipeline, self._number = settings, pipeline, number
        self._schema = pa.schema(output_fields(pipeline))
        self._model: _LoadedModel | None = None

    def find_newer(self) -> _LoadedModel | None:
        settings, pipeline = self._settings, self._pipeline
        if self._number is not None and pipeline.is_trained:
            version = model_version(settings, pipeline, self._number)
        else:
            version = scoring_model(settings, pipeline)
        known = None if self._model is None else self._model.version
        if known is not None and (version.version, version.uri) == (known.version, known.uri):
            return None
        plan = plan_model(settings, pipeline, version)
        kernel = load_kernel(plan.spec, lambda: plan.payload, scratch_folder)
        layout = layout_of(pipeline)
        outputs = known_outputs(layout.outputs, plan.spec)
        rows = RowPredictor(pipeline.name, kernel, plan.spec, outputs, layout.bands, self._schema)
        return _LoadedModel(version, plan.spec.inputs or pipeline.feature_names, rows)

    def switch_to(self, found: _LoadedModel) -> None:
        self._model = found

    def answer(self, events: pa.Table, seen: Mapping[str, ViewFeatures]) -> EventAnswers:
        model = self._model
        assert model is not None, "nothing was taken up"
        features = seen[self._pipeline.views[0].name].features
        places = {name: place for place, name in enumerate(self._pipeline.feature_names)}
        answered = model.rows.predict(features[:, [places[name] for name in model.inputs]])
        columns = [answered.rows[name].combine_chunks() for name in self._schema.names]
        used = UsedFeatures(features, np.ones(len(features), np.bool_)).to_lists
        return EventAnswers(columns, model.version.version, None, answered.failed, answered.failure, used)
