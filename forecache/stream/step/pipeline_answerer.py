"""Answers events with the model of a pipeline: each event updates the row of its key, with the features after it."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from forecache.base.settings import Settings
from forecache.declare import Pipeline
from forecache.models.inference.kernel import load_kernel
from forecache.models.inference.outputs import known_outputs
from forecache.models.registry.applied.pipeline_models import scoring_model
from forecache.models.registry.applied.scoring_plan import plan_model
from forecache.models.registry.versions.model_versions import ModelVersion, model_version
from forecache.models.tracking.artifacts import scratch_folder
from forecache.scoring.tasks.prediction_rows import layout_of
from forecache.stream.step.answerer import EventAnswers
from forecache.stream.step.row_predictor import RowPredictor
from forecache.stream.step.used_features import UsedFeatures
from forecache.stream.step.view_tiles import ViewFeatures
from forecache.stream.table_schema import output_fields


@dataclass(frozen=True)
class _LoadedModel:
    version: ModelVersion
    inputs: tuple[str, ...]
    rows: RowPredictor


class PipelineAnswerer:
    """Answers with the champion or the applied model; see `forecache.stream.step.answerer.Answerer`."""

    look_every_s = 10.0  # each call queries MLflow
    release = None

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
        if self._model is not None and (version.version, version.uri) == (
            self._model.version.version,
            self._model.version.uri,
        ):
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
        used = UsedFeatures(features, np.ones(len(features), np.bool_))
        return EventAnswers(columns, model.version.version, None, answered.failed, answered.failure, used)
