"""Cost: amounts and prices a day of stages, training, streams, storage and replicas, as means of the last week.

Prices come from FORECACHE_PRICES; an amount without a price is shown without one. Each materialization adds a point
to Dagster's plots of this asset. `forecache cost` shows the same.
"""

import os
from collections.abc import Iterator, Sequence
from io import StringIO
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.metadata import embed_plots, markdown_table
from assets.stage import RunStep, explain_errors
from forecache.base.settings import Settings
from forecache.declare.project import Project
from jobs.schedules import build_asset_job, build_cron_schedule
from resources.settings_resource import SettingsResource

if TYPE_CHECKING:
    from forecache.plugins.cost.cost_report import CostReport

DAYS = 7


def build_definitions(project: Project, settings: Settings) -> dg.Definitions:
    """The cost of the whole project, owned by all owners of declarations; every day after the nightly runs."""
    asset = build_cost(sorted({declared.owner for declared in project.nightly.values()} - {""}))
    about = "What stages, training, storage and replicas cost a day, as means of the last week."
    job = build_asset_job("cost_report", about, [asset])
    about = "Every day at 07:00 UTC: what everything cost in the last week."
    return dg.Definitions(assets=[asset], jobs=[job], schedules=[build_cron_schedule(job, "0 7 * * *", about)])


def build_cost(owners: Sequence[str]) -> dg.AssetsDefinition:
    """The asset of the report."""

    @dg.asset(name="cost", description=__doc__, group_name="monitoring", kinds={"python"}, owners=list(owners))
    @explain_errors
    def report_cost(context: dg.AssetExecutionContext, settings: SettingsResource) -> Iterator[Any]:
        from forecache.plugins.cost.cost_report import cost_report

        step = RunStep(context, settings.load())
        report = cost_report(step.settings, days=DAYS, cores=os.cpu_count() or 1)
        yield dg.MaterializeResult(metadata=cost_metadata(report))

    return report_cost


def cost_metadata(report: "CostReport") -> dict[str, Any]:
    """A table, a picture, and the prices that are known as numbers."""
    from forecache.plugins.cost.cost_report import plot_costs
    from forecache.plugins.cost.stage_costs import PARTS

    picture = StringIO()
    plot_costs(report, picture, kind="svg")
    headers = ("part", "of", "what", "a day", "unit", "on demand", "spot", "basis")
    rows = [
        (line.part, line.subject or "all", line.what, line.amount, line.unit, _format_price(line.price),
         _format_price(line.price_spot), line.basis)
        for line in report.lines
    ]  # fmt: skip
    numbers = {f"{part}_price_a_day": report.price_of(part) for part in PARTS}
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
