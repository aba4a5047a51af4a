"""The predictions of a champion and a challenger for a night, compared key by key as their tables have them."""

from collections.abc import Sequence
from datetime import date
from typing import Any

from forecache.base.settings import Settings
from forecache.base.statistics import distance
from forecache.declare import AS_OF, Pipeline
from forecache.kit.delta.dataset import open_dataset
from forecache.kit.delta.tables import open_table
from forecache.scoring.run_context import scratch_database

_BINS = 20
# Bin edges are computed from about this number of predictions, the same ones each time.
_SAMPLE_ROWS = 1_000_000
_FIGURES = ("mean_difference", "mean_absolute_difference", "largest_difference", "correlation", "psi", "js")


def compare(settings: Settings, pipeline: Pipeline, night: date) -> dict[str, Any]:
    """Compare the challenger's predictions of a night with the champion's, in memory that does not grow with them.

    Returns:
        rows, mean_difference (challenger minus champion), mean_absolute_difference, largest_difference, correlation
        (None if a side is constant), psi, js, and segment_changes: the number of rows that change their segment, by
        segment column. The figures are those of the first output, for quantiles of the one nearest to the median; for
        classes and other kinds only rows and segment_changes are not None.
    """
    keys = ", ".join(f'"{name}"' for name in pipeline.key)
    spec = pipeline.output_specs[0]
    cuts = [*([] if spec.numbers else spec.columns[:1]), *(segment.name for segment in pipeline.segments)]
    differs = [f'count_if(champion."{name}" IS DISTINCT FROM challenger."{name}")' for name in cuts]
    value = f'"{spec.judged_column}"' if spec.numbers else None
    old, new = (f"{side}.{value}" if value else "NULL::DOUBLE" for side in ("champion", "challenger"))
    with scratch_database(settings) as connection:
        for side, table in (("champion", pipeline.prediction_table), ("challenger", pipeline.challenger_table)):
            rows = open_dataset(open_table(settings, table), partitions=[(AS_OF, "=", night.isoformat())])
            connection.register(f"{side}_table", rows)
            connection.execute(f"CREATE VIEW {side} AS FROM {side}_table WHERE {AS_OF} = DATE '{night}'")
        figures = connection.execute(
            f"SELECT count(*), avg({new} - {old}), avg(abs({new} - {old})), max(abs({new} - {old})), "
            f"{', '.join([f'corr({old}, {new})', *differs])} FROM champion JOIN challenger USING ({keys})"
        ).fetchone()
        count, mean, absolute, largest, correlation, *changes = figures
        told = {"rows": count, "segment_changes": dict(zip(cuts, changes, strict=True))}
        if value is None:
            return {**told, **dict.fromkeys(_FIGURES)}
        shares, one_of = [i / _BINS for i in range(1, _BINS)], max(1, figures[0] // _SAMPLE_ROWS)
        (edges,) = connection.execute(
            f"SELECT quantile_disc({old}, {shares}) FROM champion WHERE hash({keys}) % {one_of} = 0"
        ).fetchone()
        edges = sorted(set(edges))
        apart = distance(_counts(connection, "champion", old, edges), _counts(connection, "challenger", new, edges))
    return {
        **told,
        "mean_difference": mean,
        "mean_absolute_difference": absolute,
        "largest_difference": largest,
        "correlation": correlation if correlation == correlation else None,  # JSON knows no NaN
        "psi": apart.psi,
        "js": apart.js,
    }


def _counts(connection: Any, side: str, output: str, edges: Sequence[float]) -> list[int]:
    """Rows in each bin, as `forecache.base.statistics.bin_counts` counts them."""
    from_edge = [f"count_if({output} >= {edge!r}::DOUBLE)" for edge in edges]
    above = connection.execute(f"SELECT {', '.join([f'count({output})', *from_edge])} FROM {side}").fetchone()
    return [first - then for first, then in zip(above, [*above[1:], 0], strict=True)]
