"""The Spark session, one per process, shared by all steps of a run."""

from typing import TYPE_CHECKING

import dagster as dg

from resources.settings import SettingsResource

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


class SparkResource(dg.ConfigurableResource):
    """Starts Spark at the first use; it lives as long as the process."""

    settings: SettingsResource

    def session(self) -> "SparkSession":
        """The process's session.

        Raises:
            UnavailableError: Java or a jar is missing, or the JVM did not start.
        """
        from forecache.lake.spark import spark_session

        return spark_session(self.settings.load())
