"""Cost: amounts and prices a day of stages, training, streams, storage and replicas, as means of the last week.

Prices come from FORECACHE_PRICES; an amount without a price is shown without one. Each materialization adds a point
to Dagster's plots of this asset. `forecache cost` shows the same.
"""

import os
from collections.abc import Iterator, Sequence
from io import StringIO
from typing import Any

import dagster as dg

from assets.metadata import embed_plots, markdown_table
from assets.stage import RunStep, explain_errors
from forecache.base.plugins import load_hook
from resources.settings import SettingsResource

DAYS = 7


def build_cost(owners: Sequence[str]) -> dg.AssetsDefinition:
    """The cost of the whole project."""

    @dg.asset(name="cost", description=__doc__, group_name="monitoring", kinds={"python"}, owners=list(owners))
    @explain_errors
    def report_cost(context: dg.AssetExecutionContext, settings: SettingsResource) -> Iterator[Any]:
        step = RunStep(context, settings.load())
        report = load_hook("cost", "report")(step.settings, days=DAYS, cores=os.cpu_count() or 1)
        yield dg.MaterializeResult(metadata=cost_metadata(report))

    return report_cost


def cost_metadata(report: Any) -> dict[str, Any]:
    """A table, a picture, and the prices that are known as numbers."""
    picture = StringIO()
    load_hook("cost", "plot")(report, picture, kind="svg")
    headers = ("part", "of", "what", "a day", "unit", "on demand", "spot", "basis")
    rows = [
        (line.part, line.subject or "all", line.what, line.amount, line.unit, _format_price(line.price),
         _format_price(line.price_spot), line.basis)
        for line in report.lines
    ]  # fmt: skip
    numbers = {f"{part}_price_a_day": report.price_of(part) for part in load_hook("cost", "parts")}
    numbers["price_per_million_predictions"] = report.per_million_predictions
    numbers["price_per_million_answers"] = report.per_million_answers
    numbers |= {f"price_per_million_events_of_{name}": price for name, price in report.per_million_events.items()}
    return {
        "days": report.days,
        **{name: float(f"{value:.4g}") for name, value in numbers.items() if value is not None},
        **({"missing_prices": ", ".join(report.missing_prices)} if report.missing_prices else {}),
        **({"not_known": " ".join(report.not_known)} if report.not_known else {}),
        "lines": markdown_table(headers, rows),
        "picture": embed_plots({"cost": picture.getvalue()}),
    }


def _format_price(value: float | None) -> object:
    return "-" if value is None else value
