"""The same night by hand, in a process of its own: `python -m _night.by_hand spark|duckdb FOLDER FILE`.

Read the new day's CSV file, append it to the history, compute the twenty features, score them with the same LightGBM
model, write the predictions, and export them sorted by key. Both leave out checks of rows and results, the quarantine,
a ledger, a feature table, and a store: their export is Parquet, which nobody verifies. FOLDER has `history`, a Delta
table, and `model.txt`; the last line is JSON.
"""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from _night.data import LENGTHS, NAMES, NIGHT
from _night.stages import Stages

_BATCH_ROWS = 1 << 17
_SPARK_MEMORY, _DUCKDB_MEMORY = "4g", "4GB"


def matrix_of(batch: pa.RecordBatch) -> np.ndarray:
    """The features of a batch, float32 [n, 20], NaN for null."""
    features = np.empty((len(batch), len(NAMES)), np.float32)
    for place, name in enumerate(NAMES):
        features[:, place] = batch.column(name).to_numpy(zero_copy_only=False)
    return features


def by_spark(stages: Stages, folder: Path, file: Path) -> None:
    from pyspark.sql import functions as F

    from forecache.base.settings import load_settings
    from forecache.kit.spark.session import spark_session

    memory = {"spark_driver_memory": _SPARK_MEMORY, "spark_jvm": "long"}
    spark = spark_session(load_settings(home=folder / "spark", spark_master="local[2]", **memory))
    spark.conf.set("spark.sql.shuffle.partitions", "16")
    spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", str(_BATCH_ROWS))
    stages.end("start of Spark")
    history, model = str(folder / "history"), (folder / "model.txt").read_text()
    schema = "customer_id bigint, at timestamp, amount double, shop string"
    rows = spark.read.csv(str(file), header=True, schema=schema, timestampFormat="yyyy-MM-dd HH:mm:ss")
    new = rows.withColumn("event_day", F.lit(NIGHT))
    new.write.format("delta").mode("append").partitionBy("event_day").save(history)
    stages.end("ingest")

    age, made = F.datediff(F.lit(NIGHT), "event_day"), []
    for days in LENGTHS:
        amount = F.when(age < days, F.col("amount"))
        made += [
            F.count(amount).alias(f"count_{days}d"),
            F.coalesce(F.sum(amount), F.lit(0.0)).alias(f"amount_{days}d"),
            F.avg(amount).alias(f"mean_{days}d"),
            F.min(amount).alias(f"least_{days}d"),
            F.max(amount).alias(f"most_{days}d"),
        ]
    events = spark.read.format("delta").load(history).where(age < max(LENGTHS)).where(age >= 0)
    features = events.groupBy("customer_id").agg(*made)
    narrow = features.select("customer_id", *(F.col(name).cast("float").alias(name) for name in NAMES))

    def score(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import lightgbm

        booster = lightgbm.Booster(model_str=model)
        for batch in batches:
            scores = booster.predict(matrix_of(batch), num_threads=1)
            yield pa.RecordBatch.from_arrays([batch.column(0), pa.array(scores)], ["customer_id", "probability"])

    scored = narrow.mapInArrow(score, "customer_id bigint, probability double")
    scored.withColumn("as_of", F.lit(NIGHT)).write.format("delta").save(str(folder / "predictions"))
    stages.end("features and score")
    predictions = spark.read.format("delta").load(str(folder / "predictions"))
    predictions.select("customer_id", "probability").orderBy("customer_id").write.parquet(str(folder / "export"))
    stages.end("export")


def by_duckdb(stages: Stages, folder: Path, file: Path) -> None:
    import duckdb
    import lightgbm

    limits = {"threads": 2, "memory_limit": _DUCKDB_MEMORY, "temp_directory": str(folder / "scratch")}
    connection = duckdb.connect(":memory:", config=limits | {"preserve_insertion_order": False})
    booster = lightgbm.Booster(model_file=str(folder / "model.txt"))
    stages.end("imports")
    kinds = "{'customer_id': 'BIGINT', 'at': 'TIMESTAMP', 'amount': 'DOUBLE', 'shop': 'VARCHAR'}"
    day = folder / "history" / f"event_day={NIGHT}"
    day.mkdir()
    rows = f"FROM read_csv('{file}', header = true, columns = {kinds})"
    connection.execute(f"COPY ({rows}) TO '{day / 'new.parquet'}' (FORMAT parquet)")
    stages.end("ingest")

    made = []
    for days in LENGTHS:
        amount = f"(amount) FILTER (event_day > DATE '{NIGHT}' - {days})"
        made += [
            f"count{amount}::FLOAT AS count_{days}d",
            f"coalesce(sum{amount}, 0)::FLOAT AS amount_{days}d",
            f"avg{amount}::FLOAT AS mean_{days}d",
            f"min{amount}::FLOAT AS least_{days}d",
            f"max{amount}::FLOAT AS most_{days}d",
        ]
    history = f"read_parquet('{folder}/history/*/*.parquet', hive_partitioning = true)"
    seen = f"event_day BETWEEN DATE '{NIGHT}' - {max(LENGTHS) - 1} AND DATE '{NIGHT}'"
    query = f"SELECT customer_id, {', '.join(made)} FROM {history} WHERE {seen} GROUP BY customer_id"
    target = folder / "predictions.parquet"
    schema = pa.schema([("customer_id", pa.int64()), ("probability", pa.float64())])
    with pq.ParquetWriter(target, schema) as writer:
        for batch in connection.sql(query).to_arrow_reader(_BATCH_ROWS):
            scores = booster.predict(matrix_of(batch), num_threads=2)
            writer.write_batch(pa.RecordBatch.from_arrays([batch.column(0), pa.array(scores)], schema=schema))
    stages.end("features and score")
    ordered = f"FROM '{target}' ORDER BY customer_id"
    connection.execute(f"COPY ({ordered}) TO '{folder / 'export.parquet'}' (FORMAT parquet)")
    stages.end("export")


CONTENDERS: dict[str, Any] = {"spark": by_spark, "duckdb": by_duckdb}


def main() -> None:
    stages, which = Stages(), sys.argv[1]
    with stages.watching():
        CONTENDERS[which](stages, Path(sys.argv[2]), Path(sys.argv[3]))
    print(json.dumps({"stages": stages.found}))
    sys.stdout.flush()
    if which == "duckdb":
        os._exit(0)


if __name__ == "__main__":
    main()
