"""The monitoring table: an append-only Delta table with one row for each figure of each as-of date."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timezone
from operator import itemgetter
from typing import Any, Literal

from forecache.base.settings import Settings
from forecache.base.statistics import Distance
from forecache.kit.metrics.page import MetricsPage, end_of_date, six_digits

MONITORING_TABLE = "monitoring"

Kind = Literal["feature", "prediction", "estimate", "performance"]


@dataclass(frozen=True)
class Measurement:
    """One figure."""

    pipeline: str
    run_date: date  # the as-of date by which it was known
    as_of: date  # of its rows: `run_date`, or for "performance" a label horizon before it
    kind: Kind
    name: str  # of the feature, the output or the metric
    reference: str  # "training split", "test split" or "nights before"
    model_version: int  # the champion, or that which made the predictions
    effect: float  # PSI; for a metric how much worse than the reference (negative: better)
    rows: int
    effect_low: float | None = None  # interval of the effect, for metrics
    effect_high: float | None = None
    js: float | None = None  # Jensen-Shannon distance, None for metrics
    value: float | None = None  # of a feature the share of nulls, of a metric its value
    reference_value: float | None = None
    reference_rows: int | None = None  # None if the reference is a figure of the registry
    run_id: str = ""
    recorded_at: datetime | None = None  # set when it is stored


def drift_measurement(
    pipeline: str,
    night: date,
    kind: Kind,
    name: str,
    reference: str,
    model_version: int,
    apart: Distance,
    nulls: tuple[float, float] | None = None,
    *,
    run_id: str,
) -> Measurement:
    """The figure of a distance from a reference; `nulls` are the shares of nulls of the date and the reference."""
    return Measurement(
        pipeline,
        night,
        night,
        kind,
        name,
        reference,
        model_version,
        apart.psi,
        apart.rows,
        js=apart.js,
        value=nulls and nulls[0],
        reference_value=nulls and nulls[1],
        reference_rows=apart.reference_rows,
        run_id=run_id,
    )


def append_measurements(settings: Settings, rows: Sequence[Measurement]) -> None:
    """Append figures in one commit; a newer figure supersedes an older one of the same kind, name and date."""
    from forecache.kit.delta.small_tables import append_to_small_table, row_schema

    now = datetime.now(timezone.utc)
    values = [{**vars(row), "recorded_at": now} for row in rows]
    append_to_small_table(settings, MONITORING_TABLE, row_schema(Measurement), lambda _: values)


def measurements(
    settings: Settings, pipeline: str, *, first: date | None = None, last: date | None = None
) -> list[Measurement]:
    """Read the newest value of each figure of a pipeline, from `first` to `last`, by as-of date."""
    filters: list[tuple[str, str, Any]] = [("pipeline", "=", pipeline)]
    filters += [("run_date", ">=", first)] if first else []
    filters += [("run_date", "<=", last)] if last else []
    return _read_measurements(settings, filters)


def all_measurements(settings: Settings) -> list[Measurement]:
    """Read the newest value of each figure of every pipeline, by as-of date."""
    return _read_measurements(settings, [])


def monitoring_figures(figures: Iterable[Measurement], night: date) -> dict[str, float]:
    """The figures of an as-of date that Dagster's UI plots over the dates."""
    of_night = [m for m in figures if m.run_date == night]
    features = [m.effect for m in of_night if m.kind == "feature"]
    return {
        **({"largest_feature_psi": max(features)} if features else {}),
        **{f"psi_to_{m.reference.replace(' ', '_')}": m.effect for m in of_night if m.kind == "prediction"},
        **{f"expected_{m.name}": m.value for m in of_night if m.kind == "estimate" and m.value is not None},
        **{f"realised_{m.name}": m.value for m in of_night if m.kind == "performance" and m.value is not None},
    }


def _read_measurements(settings: Settings, filters: list[tuple[str, str, Any]]) -> list[Measurement]:
    from forecache.kit.delta.small_tables import read_small_table

    rows = read_small_table(settings, MONITORING_TABLE, filters)
    return latest_figures(Measurement(**row) for row in sorted(rows, key=itemgetter("recorded_at")))


def latest_figures(rows: Iterable[Measurement]) -> list[Measurement]:
    """Keep the last of each figure, given in the order of recording; sorted by as-of date, else in that order."""
    last = {(row.pipeline, row.run_date, row.kind, row.name, row.reference, row.model_version): row for row in rows}
    return sorted(last.values(), key=lambda row: row.run_date)


def add_metrics(settings: Settings, page: MetricsPage) -> None:
    """Add the figures of the newest as-of date of each pipeline and kind."""
    rows = all_measurements(settings)
    newest: dict[tuple[str, str], date] = {}
    for row in rows:
        about = (row.pipeline, row.kind)
        newest[about] = max(row.run_date, newest.get(about, row.run_date))
    shown = {
        (row.pipeline, row.kind, row.name, row.reference): row
        for row in rows
        if row.run_date == newest[row.pipeline, row.kind]
    }
    page.add("forecache_monitoring_effect", ((about, six_digits(row.effect)) for about, row in shown.items()))
    page.add_each(
        {about[:3]: row for about, row in shown.items() if row.kind in ("estimate", "performance")}.items(),
        {
            "forecache_monitoring_value": lambda row: six_digits(row.value),
            "forecache_monitoring_effect_low": lambda row: six_digits(row.effect_low),
            "forecache_monitoring_effect_high": lambda row: six_digits(row.effect_high),
        },
    )
    page.add_each(newest.items(), {"forecache_monitoring_as_of_timestamp_seconds": end_of_date})
