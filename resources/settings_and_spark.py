"""The Dagster resources of assets, sensors and schedules: the settings, and the process's one Spark session."""

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

        return spark_session(self.settings.load())
