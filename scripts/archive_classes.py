"""Archive the classes that a Spark session loads (Java's class data sharing), so that later sessions start sooner.

Usage: python scripts/archive_classes.py FOLDER. Runs a small session that reads, scores in Python workers, merges and
writes Delta, and lets the JVM write the archive into the folder as it ends. A JVM that an archive does not fit starts
without it.
"""

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from forecache.base.settings import load_settings
from forecache.kit.spark.configuration import class_archive
from forecache.kit.spark.session import spark_session, stop_spark

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def main() -> None:
    folder = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory(prefix="forecache-classes-") as home:
        settings = load_settings(home=Path(home), spark_jars=folder, spark_master="local[2]")
        target, draft = class_archive(settings), folder / ".classes.jsa.draft"
        target.unlink(missing_ok=True)
        draft.unlink(missing_ok=True)
        _exercise(spark_session(settings, archive_to=draft), f"{home}/lake/table")
        stop_spark(timeout_s=300)
        draft.rename(target)


def _exercise(spark: "SparkSession", table: str) -> None:
    """What a night does, on a thousand rows: the classes that this loads are archived."""
    import pyarrow as pa
    from pyspark.sql import functions as F
    from pyspark.sql.pandas.functions import arrow_udf

    @arrow_udf("float")  # type: ignore[call-overload]
    def same(values: pa.Array) -> pa.Array:
        return values.flatten()

    rows = spark.range(1000).select(
        F.col("id").cast("string").alias("key"),
        (F.col("id") % 2 + F.lit("2024-01-01").cast("date").cast("timestamp").cast("long")).alias("part"),
        F.rand(1).cast("float").alias("value"),
    )
    rows.write.format("delta").partitionBy("part").option("delta.enableChangeDataFeed", "true").save(table)
    rows.write.format("delta").mode("overwrite").option("replaceWhere", "part > 0").save(table)
    read = spark.read.format("delta").load(table)
    scored = read.select("key", "part", same(F.array("value")).alias("value"))
    scored.write.mode("append").partitionBy("part").parquet(f"{table}-files")
    files = spark.read.parquet(f"{table}-files").join(read.select("key"), "key")
    files.groupBy("part").agg(F.count("*"), F.avg("value"), F.countDistinct("key")).sort("part").collect()
    files.createOrReplaceTempView("files")
    spark.sql(
        f"MERGE INTO delta.`{table}` t USING files s ON t.key = s.key AND t.part = s.part "
        "WHEN MATCHED THEN UPDATE SET value = s.value"
    )
    rows.write.option("header", "true").csv(f"{table}-csv")
    spark.read.option("header", "true").csv(f"{table}-csv").toArrow()


if __name__ == "__main__":
    main()
