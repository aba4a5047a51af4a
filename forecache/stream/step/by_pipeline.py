"""Answers by the model of a pipeline: every event refreshes the row of its key, from the features after it.

The model runs event by event, so that a row does not depend on which events came in the same batch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone

import numpy as np
import pyarrow as pa

from forecache.errors import ForecacheError
from forecache.inference.choose_runtime import Plan
from forecache.inference.kernel import load_kernel
from forecache.inference.outputs import known_outputs, score_values
from forecache.inference.runtimes.runtime import Kernel
from forecache.pipeline import Pipeline
from forecache.registry.applied.choose import scoring_model
from forecache.registry.applied.plan import plan_model
from forecache.registry.versions.models import ModelVersion, model_version
from forecache.scoring.tasks.prediction_rows import Layout, Stamp, file_schema, layout_of, prediction_rows
from forecache.settings import Settings
from forecache.stream.record import output_fields
from forecache.stream.step.answers import Answers
from forecache.stream.step.views import Seen
from forecache.tracking.scratch import scratch_folder

_NOBODY = Stamp("", -1, datetime(1970, 1, 1, tzinfo=timezone.utc), "")


@dataclass(frozen=True)
class _Model:
    version: ModelVersion
    plan: Plan
    kernel: Kernel
    inputs: tuple[str, ...]
    layout: Layout


class PipelineAnswers:
    """Answers by the champion, or by what is applied; see `forecache.stream.step.answers.Answerer`."""

    look_every_s = 10.0  # MLflow is asked
    release = None

    def __init__(self, settings: Settings, pipeline: Pipeline, number: int | None) -> None:
        self._settings, self._pipeline, self._number = settings, pipeline, number
        self._fields = output_fields(pipeline)
        self._model: _Model | None = None

    def look(self) -> _Model | None:
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
        layout = Layout((), known_outputs(layout.outputs, plan.spec), layout.bands)
        return _Model(version, plan, kernel, plan.spec.inputs or pipeline.feature_names, layout)

    def take_up(self, found: _Model) -> None:
        self._model = found

    def answer(self, events: pa.Table, seen: Mapping[str, Seen]) -> Answers:
        model = self._model
        assert model is not None, "nothing was taken up"
        features = seen[self._pipeline.views[0].name].features
        places = {name: place for place, name in enumerate(self._pipeline.feature_names)}
        chosen = features[:, [places[name] for name in model.inputs]]
        rows, failed, failure = [], 0, ""
        for i in range(events.num_rows):
            try:
                rows.append(self._row(model, chosen[i : i + 1]))
            except ForecacheError as error:
                failed, failure = failed + 1, str(error)
                rows.append(None)
            except Exception as error:  # noqa: BLE001  # of the model's library: no event may stop a stream
                failed, failure = failed + 1, f"{type(error).__name__}: {error}"
                rows.append(None)
        nothing = pa.RecordBatch.from_arrays(
            [pa.nulls(1, each.type) for each in self._fields], schema=pa.schema(self._fields)
        )
        together = pa.Table.from_batches([nothing if row is None else row for row in rows], pa.schema(self._fields))
        columns = [together[field.name].combine_chunks() for field in self._fields]
        return Answers(columns, model.version.version, None, failed, failure)

    def _row(self, model: _Model, features: np.ndarray) -> pa.RecordBatch:
        arrays = [pa.array(features[:, place]) for place in range(features.shape[1])]
        values = score_values(model.kernel, model.plan.spec, arrays, model.layout.outputs)
        key = pa.array([0], pa.int32())
        schema = file_schema(Layout(("",), model.layout.outputs, model.layout.bands), [pa.field("", pa.int32())])
        row = prediction_rows(model.layout, [key], values, _NOBODY, -1, schema)
        return pa.RecordBatch.from_arrays(
            [row.column(field.name).cast(field.type) for field in self._fields], schema=pa.schema(self._fields)
        )
