"""Drift of a real-time model: all logged requests of a day against its training data, and its expected performance.

The reader's live drift covers only a sample of the requests. The figures are rows of the table `monitoring`.
"""

from collections.abc import Iterator
from typing import Any

import dagster as dg
from pydantic import Field

from assets.metadata import owners_of, stage_metadata
from assets.partitions import configured_day
from assets.released import released_name
from assets.stage import RunStep, explain_errors
from assets.views import monitoring_figures, monitoring_view
from forecache.base.plugins import load_hook
from forecache.declare import Realtime
from resources.settings import SettingsResource

CHECK = "close_to_training"
SHIFT = 0.25
"""A population stability index above this is a shift (Siddiqi 2006)."""


class LoggedDriftConfig(dg.Config):
    """Configuration of a drift run."""

    day: str = Field("", description="Date in UTC (YYYY-MM-DD) whose requests are looked at. Default: yesterday.")


def logged_drift_name(realtime: Realtime) -> str:
    return f"logged_drift_{realtime.name}"


def build_logged_drift(realtime: Realtime) -> dg.AssetsDefinition:
    """The drift of a day's logged requests."""

    @dg.asset(
        name=logged_drift_name(realtime),
        deps=[released_name(realtime)],
        description=__doc__,
        group_name="monitoring",
        kinds={"deltalake", "python"},
        owners=owners_of(realtime),
        check_specs=[
            dg.AssetCheckSpec(
                CHECK,
                asset=logged_drift_name(realtime),
                description=f"No feature and no score is further than a PSI of {SHIFT} from the training data.",
            )
        ],
    )
    @explain_errors
    def measure_logged_drift(
        context: dg.AssetExecutionContext, config: LoggedDriftConfig, settings: SettingsResource
    ) -> Iterator[Any]:
        step, day = RunStep(context, settings.load()), configured_day(config.day)
        result = step.run_stage(load_hook("drift", "monitor_log"), step.settings, realtime, day)
        figures = load_hook("drift", "measurements")(step.settings, realtime.name, first=day, last=day)
        moved = sorted(
            (each for each in figures if each.kind in ("feature", "prediction") and each.effect > SHIFT),
            key=lambda each: -each.effect,
        )
        said = ", ".join(f"{each.name} {each.effect:.3f}" for each in moved) or "nothing has moved"
        yield dg.MaterializeResult(
            metadata={
                **stage_metadata(step.settings, result),
                **monitoring_figures(figures, day),
                "day": day.isoformat(),
                "figures": monitoring_view(figures, day),
                "notes": "; ".join(result.details["notes"]),
            },
            check_results=[
                dg.AssetCheckResult(
                    check_name=CHECK,
                    passed=not moved,
                    severity=dg.AssetCheckSeverity.WARN,
                    description=f"On {day}: {said}.",
                    metadata={each.name: each.effect for each in moved},
                )
            ],
        )

    return measure_logged_drift
