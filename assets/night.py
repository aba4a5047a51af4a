"""The as-of date to train for."""

from datetime import date

import dagster as dg
from pydantic import Field

from forecache.pipeline import Pipeline
from resources.dagster_internals import ASSET_PARTITION_RANGE_END_TAG, PARTITION_NAME_TAG


class TrainingNight(dg.Config):
    """Configuration of a training set."""

    night: str = Field("", description="As-of date (YYYY-MM-DD) to train for. Default: the newest one.")

    def resolve(self, pipeline: Pipeline, context: dg.AssetExecutionContext) -> date:
        """The configured date, else the last of the run's partitions, else the pipeline's newest as-of date.

        Raises:
            InputError: What is configured is no date.
        """
        from forecache.errors import InputError
        from forecache.pipeline.schedules.as_of import newest_as_of

        tags = context.run.tags
        text = self.night or tags.get(ASSET_PARTITION_RANGE_END_TAG) or tags.get(PARTITION_NAME_TAG)
        if not text:
            return newest_as_of(pipeline)
        try:
            return date.fromisoformat(text)
        except ValueError:
            raise InputError(f"The as-of date {text!r} is not a date.", remedy="Write it like 1998-06-30.") from None
