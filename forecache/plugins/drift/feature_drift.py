"""Feature drift: compares features of an as-of date, or of live requests, with the training split, in its bins."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import date
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from forecache.base.errors import NotFoundError
from forecache.base.settings import Settings
from forecache.base.statistics import distance, equal_mass_edges
from forecache.declare import AS_OF, Pipeline, Trainable
from forecache.declare.realtime.realtime import Realtime
from forecache.kit.delta.dataset import open_dataset
from forecache.kit.delta.tables import open_table, read_table
from forecache.lake.engine import decide_engine
from forecache.lake.split_rows import count_split, split_batches
from forecache.lake.stage_runner import Stage, StageOutcome, partition_rows
from forecache.models.registry.model_versions import ModelVersion
from forecache.plugins.drift.bins import (
    BINS,
    are_classes,
    count_batches,
    count_frame,
    every_nth_row,
    numbers_of,
    value_ranges,
)
from forecache.plugins.drift.live_counts import SCORE, ColumnBins, DriftReference
from forecache.plugins.drift.measurements import Measurement, drift_measurement
from forecache.plugins.drift.prediction_drift import test_split_scores

if TYPE_CHECKING:
    import pyarrow as pa


TRAINING_SPLIT = "training split"
STAGE = "feature_reference"
_SPLIT = "train"
_SAMPLE_ROWS = 200_000


@dataclass(frozen=True)
class FeatureReference:
    """The distribution of each feature in a training split: inner edges, and the rows in each bin, nulls last.

    For a category, the edges are its most frequent values; see `forecache.plugins.drift.bins`.
    """

    edges: Mapping[str, Sequence[Any]]
    counts: Mapping[str, Sequence[int]]
    ranges: Mapping[str, Sequence[float]]  # smallest and largest value of each numeric feature with a value


def feature_reference(settings: Settings, pipeline: Trainable, champion: ModelVersion) -> FeatureReference:
    """Count the champion's training split, once: the result is kept in the stage ledger.

    The edges come from about 200,000 rows at most, evenly spread; every row is counted. NotFoundError if the pinned
    version of the training table no longer exists.
    """
    table, version = champion.training_table
    inputs = f"{table}@{version} bins={BINS} ranges features={','.join(champion.features)}"

    def count() -> StageOutcome:
        rows = count_split(settings, table, version=version, split=_SPLIT)

        def batches() -> Iterator["pa.RecordBatch"]:
            return split_batches(settings, table, version=version, split=_SPLIT, columns=champion.features)

        sample = list(every_nth_row(batches(), -(-rows // _SAMPLE_ROWS) or 1))
        edges = {name: _edges([part.column(name) for part in sample]) for name in champion.features}
        reference = FeatureReference(edges, count_batches(batches(), edges), value_ranges(batches()))
        return StageOutcome(rows, vars(reference))

    row, _ = Stage(settings, STAGE, pipeline.name).run_once(inputs, count)
    return FeatureReference(**{field.name: row.details[field.name] for field in fields(FeatureReference)})


def _edges(parts: "Sequence[pa.Array]") -> list[Any]:
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_string(parts[0].type):
        return equal_mass_edges(np.concatenate([numbers_of(part) for part in parts]), BINS)
    counted = pc.value_counts(pa.chunked_array(parts).drop_null()).to_pylist()
    return [row["values"] for row in sorted(counted, key=lambda row: (-row["counts"], row["values"]))[:BINS]]


def feature_drift(
    settings: Settings,
    pipeline: Pipeline,
    champion: ModelVersion,
    night: date,
    *,
    table: str = "",
    run_id: str = "",
) -> list[Measurement]:
    """Measure the drift of each of the champion's features, in its order, with Spark or in this process; no figures
    if the date has no rows.

    Args:
        table: The table of the features that the champion has scored; "": that of the pipeline.
    """
    reference, table = feature_reference(settings, pipeline, champion), table or pipeline.feature_table
    rows = partition_rows(settings, table, [night], column=AS_OF)[night]
    if (engine := decide_engine(settings, rows=rows)).name == "spark":
        from pyspark.sql import functions as F

        partition = read_table(engine.session(), settings, table).where(F.col(AS_OF) == F.lit(night))
        counts = count_frame(partition, reference.edges)
    else:
        dataset = open_dataset(open_table(settings, table), partitions=[(AS_OF, "=", night.isoformat())])
        counts = count_batches(dataset.to_batches(columns=list(champion.features)), reference.edges)
    measure = partial(drift_measurement, pipeline.name, night, "feature", run_id=run_id)
    found = []
    for name in champion.features:
        if sum(counts[name]):
            apart = distance(reference.counts[name], counts[name])
            nulls = counts[name][-1] / apart.rows, reference.counts[name][-1] / apart.reference_rows
            found.append(measure(name, TRAINING_SPLIT, champion.version, apart, nulls))
    return found


logger = logging.getLogger("forecache.operations")


def live_bins(settings: Settings, realtime: Realtime, model: ModelVersion) -> bytes | None:
    """The result of `live_reference` as the content of a file of the release."""
    reference = live_reference(settings, realtime, model)
    return None if reference is None else reference.to_json()


def live_reference(settings: Settings, realtime: Realtime, model: ModelVersion) -> DriftReference | None:
    """The bins of a model's training split and of its scores on the test split; None for a model that was not
    trained here, or whose training data is gone."""
    if not realtime.is_trained or not model.is_own:
        return None
    try:
        features = feature_reference(settings, realtime, model)
    except NotFoundError as error:
        logger.warning("Drift of %s is not counted live: %s", realtime.name, error)
        return None
    columns = [_feature_bins(name, features) for name in realtime.feature_names]
    scores = test_split_scores(settings, model)
    if scores is not None and not are_classes(scores[0]):
        edges = tuple(float(edge) for edge in scores[0])
        columns.append(ColumnBins(SCORE, edges, (*scores[1], 0)))
    table, version = model.training_table
    return DriftReference(tuple(columns), f"training split of {table}@{version}")


def _feature_bins(name: str, reference: FeatureReference) -> ColumnBins:
    """The bins of a feature; one bin without rows if the model does not take it."""
    if name not in reference.edges:
        return ColumnBins(name, (), (0, 0))
    low, high = reference.ranges.get(name, (None, None))
    return ColumnBins(name, tuple(reference.edges[name]), tuple(reference.counts[name]), low, high)
