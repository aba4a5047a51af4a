"""Prediction drift: a night's scores against those of the nights before and of the model's test split."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np

from forecache.errors import NotFoundError
from forecache.lake.ledger import last_records
from forecache.lake.tables import open_table
from forecache.pipeline import AS_OF, Pipeline
from forecache.registry.models import find_champion
from forecache.registry.register import load_evaluation
from forecache.scoring.distribution import Distance, binned_counts, distance
from forecache.scoring.night import STAGE
from forecache.settings import Settings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_BINS = 20


@dataclass(frozen=True)
class DriftReport:
    """How far a night's output moved.

    Attributes:
        edges: Inner edges of the bins.
        counts: The night's rows in each bin; one bin more than edges.
        distances: By reference: "nights before" and, where the champion's evaluation is known, "test split".
    """

    pipeline: str
    output: str
    night: date
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    distances: Mapping[str, Distance]

    @property
    def level(self) -> str:
        """The largest effect: "none", "small" or "large"; "none" where there is nothing to compare with."""
        levels = [figures.level for figures in self.distances.values()]
        return max(levels, key=("none", "small", "large").index, default="none")

    def metadata(self) -> dict[str, Any]:
        """JSON-serialisable figures."""
        return {
            "output": self.output,
            "night": self.night.isoformat(),
            "level": self.level,
            "edges": list(self.edges),
            "counts": list(self.counts),
            "distances": {
                name: {"psi": figures.psi, "js": figures.js, "rows": figures.reference_rows, "level": figures.level}
                for name, figures in self.distances.items()
            },
        }


def prediction_drift(
    settings: Settings, pipeline: Pipeline, night: date, *, spark: "SparkSession | None" = None, last: int = 7
) -> DriftReport:
    """Compare a scored night with up to `last` scored nights before it and with the champion's test split.

    Args:
        spark: The session that aggregates; None: this process does.

    Raises:
        NotFoundError: The night has no predictions.
    """
    column, table = pipeline.output.name, pipeline.prediction_table
    scored = sorted(day for day in last_records(settings, STAGE, pipeline.name) if day is not None and day < night)
    before = scored[-last:]
    test = _test_scores(settings, pipeline)
    edges = test[0] if test else _quantiles(settings, table, column, before[-1] if before else night)
    counts = binned_counts(spark, settings, table, column, [*before, night], edges)
    if night not in counts:
        raise NotFoundError(
            f"Pipeline {pipeline.name!r} has no predictions for the night {night}.",
            remedy=f"`forecache run {pipeline.name} --night {night}` scores it.",
        )
    distances = {}
    past = [counts[day] for day in before if day in counts]
    if past:
        distances["nights before"] = distance([sum(bins) for bins in zip(*past, strict=True)], counts[night])
    if test:
        distances["test split"] = distance(test[1], counts[night])
    return DriftReport(pipeline.name, column, night, tuple(edges), tuple(counts[night]), distances)


def _test_scores(settings: Settings, pipeline: Pipeline) -> tuple[list[float], list[int]] | None:
    """Inner edges and counts of the champion's scores on its test split, None where it was not evaluated here."""
    model = find_champion(settings, pipeline)
    if model is None or "test_metrics" not in model.tags:
        return None
    scores = load_evaluation(settings, model)["scores"]
    series = [scores[name] for name in ("negative", "positive", "prediction") if name in scores]
    inside = [int(sum(values)) for values in zip(*series, strict=True)]
    # The histogram's ends are closed; the bins beyond them are empty in it.
    return list(scores["edges"]), [0, *inside, 0]


def _quantiles(settings: Settings, table: str, column: str, night: date) -> list[float]:
    """Inner edges of bins that hold about as many rows of a night each."""
    import pyarrow.compute as pc

    dataset = open_table(settings, table).to_pyarrow_dataset(partitions=[(AS_OF, "=", night.isoformat())])
    digest: list[float] = []
    for batch in dataset.to_batches(columns=[column], batch_size=131_072):
        if batch.num_rows:
            digest += pc.quantile(batch.column(0), q=np.linspace(0, 1, 201).tolist()).to_pylist()
    return sorted(set(np.quantile(digest, np.linspace(0, 1, _BINS + 1)[1:-1]).tolist())) if digest else [0.0]
