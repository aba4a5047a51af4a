"""What a person did on the command line, as an event of the asset: who, when, with which command. It has no run."""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.metadata import stage_metadata
from assets.views import monitoring_figures
from forecache.results import StageResult
from forecache.settings import Settings
from resources.instance import runner_instance

if TYPE_CHECKING:
    from forecache.monitoring.table import Measurement


def report(
    settings: Settings,
    asset: str,
    metadata: Mapping[str, Any],
    *,
    result: StageResult | None = None,
    night: date | None = None,
    figures: Sequence["Measurement"] = (),
) -> None:
    """Record an event of an asset in the instance that the UI reads.

    Args:
        metadata: Who, with which command, and what else there is to say.
        result: The stage that has made the asset anew: a materialization. Without, what is told is an observation.
        night: The partition that was made.
        figures: What monitoring has measured of that night.
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
