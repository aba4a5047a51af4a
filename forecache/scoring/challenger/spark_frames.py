"""The frames of shadow scoring in Spark: feature files as they lie, rows of a prediction table, their Parquet files."""

import json
from typing import TYPE_CHECKING, Any

from forecache.lake.delta.tables import open_table
from forecache.lake.spark.session import spark_path
from forecache.pipeline import Pipeline, Segment
from forecache.scoring.night import Night
from forecache.scoring.tasks.prediction_rows import Stamp
from forecache.scoring.tasks.spark_engine import known_errors
from forecache.settings import Settings

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession


def own_session(spark: "SparkSession", batch_rows: int) -> "SparkSession":
    """A session with the configuration of scoring, on the same cluster: the caller's stays as it is."""
    session = spark.newSession()
    for key, value in {
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
        "spark.sql.execution.arrow.maxRecordsPerBatch": batch_rows,
        "spark.sql.files.maxPartitionBytes": 32 << 20,
        "spark.sql.files.openCostInBytes": 1 << 20,
        "spark.sql.files.maxRecordsPerFile": 0,
        "spark.databricks.delta.formatCheck.enabled": "false",
    }.items():
        session.conf.set(key, str(value))
    return session


def read_features(spark: "SparkSession", settings: Settings, pipeline: Pipeline, night: Night) -> "DataFrame":
    """Key columns and the features as float, straight from the night's files."""
    from pyspark.sql.types import FloatType, StructField, StructType

    known = _table_schema(settings, pipeline)
    fields = [known[name] for name in pipeline.key]
    fields += [StructField(name, FloatType()) for name in pipeline.features.names]
    root = spark_path(settings.table_uri(pipeline.feature_table))
    return spark.read.schema(StructType(fields)).parquet(*(f"{root}/{file.path}" for file in night.files))


def _table_schema(settings: Settings, pipeline: Pipeline) -> dict[str, Any]:
    from pyspark.sql.types import StructType

    schema = StructType.fromJson(json.loads(open_table(settings, pipeline.feature_table).schema().to_json()))
    return {field.name: field for field in schema.fields}


def number(output: "Column") -> "Column":
    """The column as double, null where it is NaN, which would pass every comparison and every null count."""
    from pyspark.sql import functions as F

    return F.nanvl(output.cast("double"), F.lit(None).cast("double"))


def stamped(frame: "DataFrame", pipeline: Pipeline, night: Night, stamp: Stamp) -> "DataFrame":
    """Rows as the prediction table has them, from key columns and the output as double."""
    from pyspark.sql import functions as F

    output = F.col(pipeline.output.name)
    constants = {
        "model_name": F.lit(stamp.model_name),
        "model_version": F.lit(stamp.model_version).cast("int"),
        "feature_version": F.lit(night.feature_version).cast("bigint"),
        "scored_at": F.lit(stamp.scored_at),
        "run_id": F.lit(stamp.run_id),
    }
    segments = [cut(segment, output).alias(segment.name) for segment in pipeline.segments]
    return frame.select(*pipeline.key, output, *segments, *(column.alias(name) for name, column in constants.items()))


def cut(segment: Segment, output: "Column") -> "Column":
    """The label of a segment; null where the output is."""
    from pyspark.sql import functions as F

    chain: Any = F
    for bound, label in zip(segment.bounds, segment.labels, strict=False):
        chain = chain.when(output < F.lit(bound), F.lit(label))
    last = F.when(output.isNotNull(), F.lit(segment.labels[-1]))
    return chain.otherwise(last) if segment.bounds else last


def write_rows(rows: "DataFrame", settings: Settings, table: str, folder: str) -> None:
    """Write rows of a prediction table into a folder below it; a file appears when its task has ended."""
    writer = (
        rows.write.mode("append")
        .option("mapreduce.fileoutputcommitter.algorithm.version", "2")
        .option("mapreduce.fileoutputcommitter.marksuccessfuljobs", "false")
    )
    with known_errors():
        writer.parquet(f"{spark_path(settings.table_uri(table))}/{folder}")
