"""The Dagster resources of assets, sensors and schedules: the settings, and the process's one Spark session."""

import threading
from functools import cache
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from forecache.base.settings import Settings, load_settings
from resources.session import current_session

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


class SettingsResource(dg.ConfigurableResource):
    """Builds `Settings` from FORECACHE_* variables; the UI shows only the fields below, never a secret."""

    home: str = Field(description="Folder that holds everything the project writes.")
    project: str = Field("dagster_project", description="Package of the project, with `pipelines/`.")

    def load(self) -> Settings:
        """The settings of the current session, else those of the environment."""
        session = current_session()
        return session.settings if session else load_settings(home=self.home, project=self.project)


class SparkResource(dg.ConfigurableResource):
    """Starts Spark at the first use; it lives as long as the process."""

    settings: SettingsResource

    def session(self) -> "SparkSession":
        """The process's session."""
        from forecache.kit.spark.session import spark_session

        _preload_expectations()
        return spark_session(self.settings.load())


@cache
def _preload_expectations() -> None:
    """Import Great Expectations while Spark's JVM starts: each takes five seconds of one core."""
    # Needed by both threads: modules that import each other must not be imported by two threads at once.
    import pandas  # noqa: F401
    import pyspark.sql  # noqa: F401

    from forecache.lake.quality.validate import load_expectations

    threading.Thread(target=load_expectations, name="great-expectations", daemon=True).start()
