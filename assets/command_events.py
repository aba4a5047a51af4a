"""Events of assets for actions that a person took on the command line: who, when, with which command; without a run."""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

import dagster as dg

from assets.metadata import stage_metadata
from assets.views import monitoring_figures
from forecache.base.results import StageResult
from forecache.base.settings import Settings
from resources.instance import runner_instance


def record_asset_event(
    settings: Settings,
    asset: str,
    metadata: Mapping[str, Any],
    *,
    result: StageResult | None = None,
    night: date | None = None,
    figures: Sequence[Any] = (),
) -> None:
    """Record an event of an asset in the instance that the UI reads.

    Args:
        metadata: Who, with which command, and further figures.
        result: The stage that materialized the asset; None records an observation instead of a materialization.
        night: The partition that was materialized.
        figures: Measurements of monitoring for that as-of date.
    """
    told = {name: value if isinstance(value, int | float) else str(value) for name, value in metadata.items()}
    if result is None:
        event: dg.AssetObservation | dg.AssetMaterialization = dg.AssetObservation(asset, metadata=told)
    else:
        measured = monitoring_figures(figures, night) if night else {}
        event = dg.AssetMaterialization(
            asset,
            partition=night.isoformat() if night else None,
            metadata={**told, **stage_metadata(settings, result), **measured},
        )
    with runner_instance(settings) as instance:
        instance.report_runless_asset_event(event)
