"""Drift of a real-time model: a day's logged requests against its training data, in all of the log's rows.

The reader counts a sample of them as they come; here is every one, with what its performance can be expected to be. The
figures are rows of the table `monitoring`.
"""

from collections.abc import Iterator
from datetime import date, datetime, timedelta, timezone
from typing import Any

import dagster as dg

from assets.metadata import stage_metadata
from assets.released import released_name
from assets.stage import Step, explained
from assets.views import monitoring_figures, monitoring_view
from forecache.pipeline import Realtime
from resources.settings import SettingsResource

CHECK = "close_to_training"
SHIFT = 0.25
"""Population stability index from which on one speaks of a shift (Siddiqi 2006)."""


class Day(dg.Config):
    """Which day of the log; empty: yesterday, in UTC."""

    day: str = ""

    @property
    def date(self) -> date:
        return date.fromisoformat(self.day) if self.day else datetime.now(timezone.utc).date() - timedelta(days=1)


def logged_drift_name(realtime: Realtime) -> str:
    return f"logged_drift_{realtime.name}"


def build_logged_drift(realtime: Realtime) -> dg.AssetsDefinition:
    """The figures of a day's logged requests."""

    @dg.asset(
        name=logged_drift_name(realtime),
        deps=[released_name(realtime)],
        description=__doc__,
        group_name="monitoring",
        kinds={"deltalake", "python"},
        owners=[realtime.owner],
        check_specs=[
            dg.AssetCheckSpec(
                CHECK,
                asset=logged_drift_name(realtime),
                description=f"No feature and no score is further than a PSI of {SHIFT} from the training data.",
            )
        ],
    )
    @explained
    def logged_drift(context: dg.AssetExecutionContext, config: Day, settings: SettingsResource) -> Iterator[Any]:
        from forecache.monitoring.logged import monitor_log
        from forecache.monitoring.table import measurements

        step = Step(context, settings.load())
        result = step.run(monitor_log, step.settings, realtime, config.date)
        figures = measurements(step.settings, realtime.name, first=config.date, last=config.date)
        moved = sorted(
            (each for each in figures if each.kind in ("feature", "prediction") and each.effect > SHIFT),
            key=lambda each: -each.effect,
        )
        said = ", ".join(f"{each.name} {each.effect:.3f}" for each in moved) or "nothing has moved"
        yield dg.MaterializeResult(
            metadata={
                **stage_metadata(step.settings, result),
                **monitoring_figures(figures, config.date),
                "day": config.date.isoformat(),
                "figures": monitoring_view(figures, config.date),
                "notes": "; ".join(result.details["notes"]),
            },
            check_results=[
                dg.AssetCheckResult(
                    check_name=CHECK,
                    passed=not moved,
                    severity=dg.AssetCheckSeverity.WARN,
                    description=f"On {config.date}: {said}.",
                    metadata={each.name: each.effect for each in moved},
                )
            ],
        )

    return logged_drift
