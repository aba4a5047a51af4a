"""The Spark session, one per process, shared by all steps of a run."""

import threading
from functools import cache
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
