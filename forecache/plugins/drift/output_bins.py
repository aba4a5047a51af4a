"""The distribution of an as-of date's outputs, for display."""

from dataclasses import dataclass
from datetime import date

from forecache.base.settings import Settings
from forecache.declare import AS_OF, Pipeline
from forecache.lake.query import query

BINS = 10


@dataclass(frozen=True)
class Bin:
    """Rows whose output lies in [low, high); the last bin includes `high`."""

    low: float
    high: float
    rows: int


def output_bins(settings: Settings, pipeline: Pipeline, night: date) -> list[Bin]:
    """Ten bins of equal width from the as-of date's smallest to its largest output; one if all are equal, none if the
    first output is not of numbers.
    """
    spec = pipeline.output_specs[0]
    if not spec.numbers:
        return []
    column = f'"{spec.judged_column}"'
    rows = query(
        settings,
        f"""
        with night as (
            select {column} as value from {pipeline.prediction_table} where {AS_OF} = date '{night.isoformat()}'
        ), ends as (select min(value) as low, max(value) as high from night)
        select low, high, least({BINS - 1}, floor((value - low) / nullif(high - low, 0) * {BINS}))::int as bin,
            count(*) as rows
        from night, ends group by all order by bin
        """,
    ).to_pylist()
    if not rows:
        return []
    low, high = rows[0]["low"], rows[0]["high"]
    if low == high:
        return [Bin(low, high, rows[0]["rows"])]
    counts = {row["bin"]: row["rows"] for row in rows}
    width = (high - low) / BINS
    return [Bin(low + i * width, low + (i + 1) * width, counts.get(i, 0)) for i in range(BINS)]


def segment_rows(settings: Settings, pipeline: Pipeline, night: date) -> dict[str, dict[str, int]]:
    """Number of rows by declared segment and label, in the order of the declaration, labels without rows included; and
    by class of the first output, the commonest first."""
    counts: dict[str, dict[str, int]] = {}
    spec = pipeline.output_specs[0]
    if spec.kind == "classes":
        sql = f"""
            select "{spec.name}" as label, count(*) as rows from {pipeline.prediction_table}
            where {AS_OF} = date '{night.isoformat()}' group by 1 order by 2 desc, 1
        """
        counts[spec.name] = {row["label"]: row["rows"] for row in query(settings, sql).to_pylist()}
    for segment in pipeline.segments:
        sql = f"""
            select "{segment.name}" as label, count(*) as rows from {pipeline.prediction_table}
            where {AS_OF} = date '{night.isoformat()}' group by 1
        """
        found = {row["label"]: row["rows"] for row in query(settings, sql).to_pylist()}
        counts[segment.name] = {label: found.get(label, 0) for label in segment.labels}
    return counts
