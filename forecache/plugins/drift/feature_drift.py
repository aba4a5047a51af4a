"""Feature drift: compares the features of an as-of date with the champion's training split, in bins of that split."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np

from forecache.base.settings import Settings
from forecache.base.statistics import distance, equal_mass_edges
from forecache.declare import AS_OF, Pipeline, Trainable
from forecache.kit.delta.dataset import open_dataset
from forecache.kit.delta.tables import open_table, read_table
from forecache.lake.split_rows import count_split, split_batches
from forecache.lake.stage import Stage, StageOutcome
from forecache.models.registry.model_versions import ModelVersion
from forecache.plugins.drift.bins import BINS, count_batches, count_frame, every_nth_row, numbers_of, value_ranges
from forecache.plugins.drift.measurements import Measurement

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import SparkSession

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
    return FeatureReference(**row.details)


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
    spark: "SparkSession | None" = None,
    run_id: str = "",
) -> list[Measurement]:
    """Measure the drift of each of the champion's features, in its order, with Spark or in this process; no figures
    if the date has no rows."""
    reference = feature_reference(settings, pipeline, champion)
    if spark is not None:
        from pyspark.sql import functions as F

        partition = read_table(spark, settings, pipeline.feature_table).where(F.col(AS_OF) == F.lit(night))
        counts = count_frame(partition, reference.edges)
    else:
        dataset = open_dataset(
            open_table(settings, pipeline.feature_table), partitions=[(AS_OF, "=", night.isoformat())]
        )
        counts = count_batches(dataset.to_batches(columns=list(champion.features)), reference.edges)
    found = []
    for name in champion.features:
        if not sum(counts[name]):
            continue
        apart = distance(reference.counts[name], counts[name])
        found.append(
            Measurement(
                pipeline=pipeline.name,
                night=night,
                as_of=night,
                kind="feature",
                name=name,
                reference=TRAINING_SPLIT,
                model_version=champion.version,
                effect=apart.psi,
                js=apart.js,
                value=counts[name][-1] / apart.rows,
                reference_value=reference.counts[name][-1] / apart.reference_rows,
                rows=apart.rows,
                reference_rows=apart.reference_rows,
                run_id=run_id,
            )
        )
    return found
