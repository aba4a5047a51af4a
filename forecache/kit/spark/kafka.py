"""The jars that Spark needs to read Kafka: its connector, Kafka's client, and the connector's object pool.

Only the session of a stream loads them. Kafka's other dependencies (lz4, snappy, zstd, SLF4J) are Spark's own.
"""

from pathlib import Path

from forecache.base.errors import UnavailableError
from forecache.base.settings import Settings

FOLDER = "kafka"
JARS = (
    "spark-sql-kafka-0-10_2.13-4.1.1.jar",
    "spark-token-provider-kafka-0-10_2.13-4.1.1.jar",
    "kafka-clients-3.9.1.jar",
    "commons-pool2-2.12.1.jar",
)


def kafka_jars(settings: Settings) -> list[Path]:
    """Paths of the jars, all present; [] if the Spark configuration names another connector."""
    own = settings.spark_conf.get("spark.jars", "") + settings.spark_conf.get("spark.jars.packages", "")
    if "spark-sql-kafka" in own:
        return []
    paths = [settings.spark_jars.resolve() / FOLDER / jar for jar in JARS]
    for path in paths:
        if not path.is_file():
            raise UnavailableError(
                f"Spark reads Kafka with the jar {path}, which is missing.", remedy="Run `make setup`."
            )
    return paths
