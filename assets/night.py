"""The as-of date to train for."""

from datetime import date

import dagster as dg
from pydantic import Field

from forecache.pipeline.schedules.as_of import Scheduled
from resources.dagster_internals import ASSET_PARTITION_RANGE_END_TAG, PARTITION_NAME_TAG


class TrainingNight(dg.Config):
    """Configuration of a training set."""

    night: str = Field("", description="As-of date (YYYY-MM-DD) to train for. Default: the newest one.")

    def resolve(self, declared: Scheduled, context: dg.AssetExecutionContext) -> date:
        """Return the configured date, else the one that `resolved_night` finds.

        Raises:
            InputError: The configured text is no date.
        """
        return resolved_night(declared, context, self.night)


def resolved_night(declared: Scheduled, context: dg.AssetExecutionContext, configured: str = "") -> date:
    """Choose the configured date, else the last of the run's partitions, else the newest as-of date of the declaration.

    Raises:
        InputError: The configured text is no date.
    """
    from forecache.errors import InputError
    from forecache.pipeline.schedules.as_of import newest_as_of

    tags = context.run.tags
    text = configured or tags.get(ASSET_PARTITION_RANGE_END_TAG) or tags.get(PARTITION_NAME_TAG)
    if not text:
        return newest_as_of(declared)
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise InputError(f"The as-of date {text!r} is not a date.", remedy="Write it like 1998-06-30.") from None
