"""The predictions of a champion and a challenger for a night, compared key by key as their tables have them."""

from collections.abc import Sequence
from datetime import date
from typing import Any

from forecache.lake.delta.tables import open_table
from forecache.pipeline import AS_OF, Pipeline
from forecache.scoring.scratch import scratch_database
from forecache.settings import Settings
from forecache.statistics import distance

_BINS = 20
# Bins are cut from about so many predictions, the same ones each time.
_SAMPLE_ROWS = 1_000_000


def compare(settings: Settings, pipeline: Pipeline, night: date) -> dict[str, Any]:
    """How the challenger's predictions of a night differ from the champion's, in memory that does not grow with them.

    Returns:
        rows, mean_difference (challenger minus champion), mean_absolute_difference, largest_difference, correlation
        (None where a side is constant), psi, js, and segment_changes: by segment, the rows that change it.
    """
    keys = ", ".join(f'"{name}"' for name in pipeline.key)
    differs = [f'count_if(champion."{s.name}" IS DISTINCT FROM challenger."{s.name}")' for s in pipeline.segments]
    old, new = (f'{side}."{pipeline.main_output.name}"' for side in ("champion", "challenger"))
    with scratch_database(settings) as connection:
        for side, table in (("champion", pipeline.prediction_table), ("challenger", pipeline.challenger_table)):
            rows = open_table(settings, table).to_pyarrow_dataset(partitions=[(AS_OF, "=", night.isoformat())])
            connection.register(f"{side}_table", rows)
            connection.execute(f"CREATE VIEW {side} AS FROM {side}_table WHERE {AS_OF} = DATE '{night}'")
        figures = connection.execute(
            f"SELECT count(*), avg({new} - {old}), avg(abs({new} - {old})), max(abs({new} - {old})), "
            f"{', '.join([f'corr({old}, {new})', *differs])} FROM champion JOIN challenger USING ({keys})"
        ).fetchone()
        shares, one_of = [i / _BINS for i in range(1, _BINS)], max(1, figures[0] // _SAMPLE_ROWS)
        (edges,) = connection.execute(
            f"SELECT quantile_disc({old}, {shares}) FROM champion WHERE hash({keys}) % {one_of} = 0"
        ).fetchone()
        edges = sorted(set(edges))
        apart = distance(_counts(connection, "champion", old, edges), _counts(connection, "challenger", new, edges))
    count, mean, absolute, largest, correlation, *changes = figures
    return {
        "rows": count,
        "mean_difference": mean,
        "mean_absolute_difference": absolute,
        "largest_difference": largest,
        "correlation": correlation if correlation == correlation else None,  # JSON knows no NaN
        "psi": apart.psi,
        "js": apart.js,
        "segment_changes": {segment.name: n for segment, n in zip(pipeline.segments, changes, strict=True)},
    }


def _counts(connection: Any, side: str, output: str, edges: Sequence[float]) -> list[int]:
    """Rows in each bin, as `forecache.statistics.bin_counts` counts them."""
    from_edge = [f"count_if({output} >= {edge!r}::DOUBLE)" for edge in edges]
    above = connection.execute(f"SELECT {', '.join([f'count({output})', *from_edge])} FROM {side}").fetchone()
    return [first - then for first, then in zip(above, [*above[1:], 0], strict=True)]
