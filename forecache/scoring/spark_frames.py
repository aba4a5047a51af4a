"""The frames of a Spark scoring job: feature files as they lie, predictions, rows of the prediction table."""

import json
from collections.abc import Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any

from forecache.lake.spark import spark_path
from forecache.lake.tables import open_table
from forecache.pipeline import AS_OF, Pipeline, Segment
from forecache.scoring.job import Job
from forecache.scoring.night import FeatureFile
from forecache.scoring.rows import Stamp
from forecache.settings import Settings

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession


def read_features(spark: "SparkSession", settings: Settings, pipeline: Pipeline, job: Job) -> "DataFrame":
    """Key columns, the features as float and `as_of`, straight from the job's files."""
    from pyspark.sql import functions as F
    from pyspark.sql.types import DateType, FloatType, StructField, StructType

    known = _table_schema(spark, settings, pipeline)
    fields = [known[name] for name in pipeline.key]
    fields += [StructField(name, FloatType()) for name in pipeline.features.names]
    root = spark_path(settings.table_uri(pipeline.feature_table))
    reader = spark.read.schema(StructType([*fields, StructField(AS_OF, DateType())])).option("basePath", root)
    frame = reader.parquet(*(f"{root}/{file.path}" for files in job.files.values() for file in files))
    for file in _begun(job):
        done = (F.col("_metadata.file_name") == file.name) & (F.col("_metadata.row_index") < file.first)
        frame = frame.where(~done)
    return frame


def _begun(job: Job) -> list[FeatureFile]:
    """Files whose first rows an earlier run scored: at most one for each core that it had."""
    return [file for files in job.files.values() for file in files if file.first]


def _table_schema(spark: "SparkSession", settings: Settings, pipeline: Pipeline) -> dict[str, Any]:
    from pyspark.sql.types import StructType

    schema = StructType.fromJson(json.loads(open_table(settings, pipeline.feature_table).schema().to_json()))
    return {field.name: field for field in schema.fields}


def with_features(frame: "DataFrame", pipeline: Pipeline, names: Sequence[str], job: Job) -> "DataFrame":
    """Key columns, `as_of`, the array `features` in the model's order, and the shard where the job is sharded.

    What a worker is not sent waits in the JVM beside what it is: nothing else is kept.
    """
    from pyspark.sql import functions as F

    name = F.col("_metadata.file_name")
    shard = reduce(lambda other, file: F.when(name == file.name, F.lit(file.shard)).otherwise(other), _begun(job), name)
    shards = [shard.alias("shard")] if job.sharded else []
    return frame.select(*pipeline.key, AS_OF, *shards, F.array(*names).alias("features"))


def predicted(features: "DataFrame", pipeline: Pipeline, output: "Column", *, sharded: bool) -> "DataFrame":
    """Key columns, `as_of`, the output as double, and the shard where the job is sharded.

    An output that is not a number becomes null: NaN would pass every comparison and every null count.
    """
    kept = [*pipeline.key, AS_OF, *(["shard"] if sharded else [])]
    return features.select(*kept, number(output).alias(pipeline.output.name))


def number(output: "Column") -> "Column":
    """The column as double, null where it is NaN."""
    from pyspark.sql import functions as F

    return F.nanvl(output.cast("double"), F.lit(None).cast("double"))


def stamped(frame: "DataFrame", pipeline: Pipeline, job: Job, stamp: Stamp) -> "DataFrame":
    """Rows as the prediction table has them, from `predicted`; `as_of` stays where the job has several nights."""
    from pyspark.sql import functions as F

    output = F.col(pipeline.output.name)
    version = reduce(
        lambda column, item: column.when(F.col(AS_OF) == F.lit(item[0]), F.lit(item[1])),
        list(job.versions.items()),
        F,
    )
    constants = {
        "model_name": F.lit(stamp.model_name),
        "model_version": F.lit(stamp.model_version).cast("int"),
        "feature_version": version.cast("bigint"),
        "scored_at": F.lit(stamp.scored_at),
        "run_id": F.lit(stamp.run_id),
    }
    segments = [cut(segment, output).alias(segment.name) for segment in pipeline.segments]
    return frame.select(
        *pipeline.key,
        output,
        *segments,
        *(column.alias(name) for name, column in constants.items()),
        *job.partition_columns,
    )


def cut(segment: Segment, output: "Column") -> "Column":
    """The label of a segment; null where the output is."""
    from pyspark.sql import functions as F

    chain: Any = F
    for bound, label in zip(segment.bounds, segment.labels, strict=False):
        chain = chain.when(output < F.lit(bound), F.lit(label))
    last = F.when(output.isNotNull(), F.lit(segment.labels[-1]))
    return chain.otherwise(last) if segment.bounds else last
