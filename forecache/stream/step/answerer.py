"""Answerers score the events of a batch: their protocol, and the one that asks the model of a pipeline."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from forecache.base.errors import ForecacheError
from forecache.base.output_kinds import OutputSpec
from forecache.base.settings import Settings
from forecache.declare import Pipeline, Realtime
from forecache.lake.provenance import Stamp
from forecache.models.inference.kernel import load_kernel
from forecache.models.inference.kernel_spec import KernelSpec
from forecache.models.inference.outputs import known_outputs, score_values
from forecache.models.inference.runtimes.runtime import Kernel
from forecache.models.registry.applied.pipeline_models import scoring_model
from forecache.models.registry.applied.scoring_plan import plan_model
from forecache.models.registry.model_versions import ModelVersion, model_version
from forecache.models.tracking.artifacts import scratch_folder
from forecache.scoring.tasks.prediction_rows import Band, PredictionLayout, file_schema, layout_of, prediction_rows
from forecache.stream.step.batch_invariance import table_invariance_check
from forecache.stream.step.used_features import UsedFeatures
from forecache.stream.step.view_tiles import ViewFeatures
from forecache.stream.table_schema import output_fields


@dataclass(frozen=True)
class EventAnswers:
    """The answers to n events.

    Attributes:
        columns: `forecache.stream.table_schema.output_fields`, n rows; a row without an answer is null.
        model_version, release: The model version and release that answered; None if there is none.
        failed: Rows without an answer.
        failure: The error of the last of these.
        used: The features of the answers, in the order of the release's or the pipeline's; None if there is no model.
    """

    columns: Sequence[pa.Array]
    model_version: int | None = None
    release: int | None = None
    failed: int = 0
    failure: str = ""
    used: UsedFeatures | None = None


class Answerer(Protocol):
    """Answers events.

    Attributes:
        look_every_s: Seconds between two calls of `find_newer`.
    """

    look_every_s: float

    @property
    def release(self) -> int | None:
        """The number of the release that answers; None if no release does."""
        ...

    def find_newer(self) -> Any:
        """Load a newer release or model version for `switch_to`; None if there is none. Any thread may call it.

        Raises:
            ForecacheError: There is no release or model at all, or the newer one cannot be used.
        """

    def switch_to(self, found: Any) -> None:
        """Answer with the result of `find_newer` from now on; called between batches."""

    def answer(self, events: pa.Table, seen: Mapping[str, ViewFeatures]) -> EventAnswers:
        """Answer events.

        Args:
            seen: By view, the features that each event gets.
        """


class NoAnswerer:
    """The answerer of a stream without a model, which only keeps its views."""

    look_every_s = 3600.0
    release = None

    def find_newer(self) -> Any:
        return None

    def switch_to(self, found: Any) -> None:
        raise AssertionError("there is nothing to take up")

    def answer(self, events: pa.Table, seen: Mapping[str, ViewFeatures]) -> EventAnswers:
        return EventAnswers([])


def switch_to_newest(answerer: Answerer) -> None:
    """Switch to the current release or model version; raises as `Answerer.find_newer`."""
    found = answerer.find_newer()
    if found is not None:
        answerer.switch_to(found)


def answerer_of(settings: Settings, answers: Any, *, number: int | None = None) -> Answerer:
    """Return the answerer of a stream.

    Args:
        answers: The declared pipeline or real-time model, or None.
        number: The release or model version that always answers; None: the current one.
    """
    if isinstance(answers, Realtime):
        from forecache.stream.step.release_answerer import ReleaseAnswerer

        return ReleaseAnswerer(settings, answers, number)
    if isinstance(answers, Pipeline):
        return PipelineAnswerer(settings, answers, number)
    return NoAnswerer()


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
