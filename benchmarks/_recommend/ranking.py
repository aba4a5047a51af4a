"""The section `ranking`, in a process of its own: `python -m _recommend.ranking PART USERS`, JSON out.

`delta`: the 50 best of 20,000 items for users with 64 factors that nothing can be left out of, into a Delta table.
`peers`: the same for fewer users with the factors of a trained Spark ALS, beside Spark's and `implicit`'s own ranking.
"""

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from _common.memory import high_water_bytes
from scipy.sparse import csr_matrix

from forecache import Recommender
from forecache.base.settings import load_settings
from forecache.declare import AS_OF, Column, Source
from forecache.kit.delta.dataset import open_dataset
from forecache.kit.delta.partitions import take_snapshot
from forecache.kit.delta.tables import open_table
from forecache.plugins.recommend.lists import Lists
from forecache.plugins.recommend.models import Popularity
from forecache.plugins.recommend.models.popularity import FittedPopularity
from forecache.plugins.recommend.stage import write_lists
from forecache.plugins.recommend.top_k import top_k_of_factors

ITEMS, FACTORS, K, CORES, ROUNDS = 20_000, 64, 50, 2, 3
NIGHT = date(2026, 1, 1)


def delta(num_users: int) -> dict[str, Any]:
    """Seconds and memory of the lists of many users into a Delta table; every vector has about the same norm."""
    rng = np.random.default_rng(1)
    users = rng.normal(size=(num_users, FACTORS)).astype(np.float32)
    items = rng.normal(size=(ITEMS, FACTORS)).astype(np.float32)
    keys = pa.array([f"item-{number:05d}" for number in range(ITEMS)])
    source = Source(
        "clicks", (Column("user", "int"), Column("item", "string"), Column("day", "date")), "day", start=NIGHT
    )
    recommender = Recommender("bench", source, user="user", item="item", model=Popularity(), k=K)
    folder = Path(tempfile.mkdtemp(prefix="forecache-bench-ranking-"))
    settings = load_settings(home=folder)
    before_mb = round(high_water_bytes(os.getpid()) / 1e6)
    started = time.perf_counter()
    lists = Lists(
        pa.array(np.arange(num_users, dtype=np.int32)),
        csr_matrix((num_users, ITEMS), dtype=np.float32),
        FittedPopularity(keys, np.zeros(ITEMS, np.float32)),
        top_k_of_factors(users, items, K, threads=CORES),
    )
    write_lists(
        settings, recommender, lists, NIGHT, source_version=0, seen=take_snapshot(settings, "x", AS_OF), inputs=""
    )
    seconds = time.perf_counter() - started
    rows = open_dataset(open_table(settings, recommender.prediction_table))
    assert rows.count_rows() == num_users
    sample = rows.head(64).to_pylist()
    for row in sample:
        best = np.argsort(-(users[row["user"]] @ items.T), kind="stable")[:K]
        assert {item["item"] for item in row["items"]} == {keys[int(item)].as_py() for item in best}
    shutil.rmtree(folder)
    return {
        "users": num_users,
        "seconds": seconds,
        "peak_mb": round(high_water_bytes(os.getpid()) / 1e6),
        "before_mb": before_mb,
    }


def peers(num_users: int) -> dict[str, Any]:
    """Seconds of each ranking of the same factors; the scores are compared."""
    from implicit.cpu.topk import topk
    from pyspark.sql import SparkSession

    spark = (
        SparkSession.builder.master(f"local[{CORES}]")
        .config("spark.driver.memory", "8g")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .getOrCreate()
    )
    model = _trained(spark, num_users)
    users, items = _vectors(model.userFactors), _vectors(model.itemFactors)
    best: dict[str, np.ndarray] = {}

    def ours() -> None:
        best["forecache"] = np.concatenate([p.scores for p in top_k_of_factors(users, items, K, threads=CORES)])

    def implicit() -> None:
        best["implicit"] = topk(items, users, K, num_threads=CORES)[1]

    def of_spark() -> None:
        model.recommendForAllUsers(K).write.format("noop").mode("overwrite").save()

    runs: dict[str, Callable[[], None]] = {"forecache": ours, "implicit": implicit}
    found: dict[str, list[float]] = {name: [] for name in (*runs, "spark")}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            found[name].append(_seconds(run))
    found["spark"].append(_seconds(of_spark))
    np.testing.assert_allclose(best["forecache"], best["implicit"], rtol=1e-4)
    row = model.recommendForAllUsers(K).limit(1).collect()[0]
    position = int(np.flatnonzero(_ids(model.userFactors) == row["user"])[0])
    np.testing.assert_allclose(
        best["forecache"][position], [each["rating"] for each in row["recommendations"]], rtol=1e-4
    )
    spark.stop()
    return {"users": num_users, "items": len(items), **{f"{name}_s": samples for name, samples in found.items()}}


def _trained(spark: Any, num_users: int) -> Any:
    """Spark's ALS after three iterations on made-up clicks: few items have most of them."""
    from pyspark.ml.recommendation import ALS

    rng = np.random.default_rng(2)
    clicks = num_users * 30
    item = (ITEMS * rng.random(clicks) ** 3).astype(np.int32)
    item[:ITEMS] = np.arange(ITEMS)
    user = rng.integers(0, num_users, clicks).astype(np.int32)
    user[:num_users] = np.arange(num_users)
    table = pa.table({"user": user, "item": item, "rating": np.ones(clicks, np.float32)})
    folder = tempfile.mkdtemp(prefix="forecache-bench-clicks-")
    import pyarrow.parquet as pq

    pq.write_table(table, f"{folder}/clicks.parquet")
    als = ALS(
        rank=FACTORS, maxIter=3, regParam=0.01, alpha=10.0, implicitPrefs=True, seed=1,
        userCol="user", itemCol="item", ratingCol="rating",
    )  # fmt: skip
    return als.fit(spark.read.parquet(folder))


def _ids(factors: Any) -> np.ndarray:
    return np.sort(factors.select("id").toPandas()["id"].to_numpy())


def _vectors(factors: Any) -> np.ndarray:
    """float32 [n, d], by ascending id."""
    found = factors.toPandas().sort_values("id")
    return np.array(found["features"].tolist(), np.float32)


def _seconds(run: Callable[[], None]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


if __name__ == "__main__":
    print(json.dumps({"delta": delta, "peers": peers}[sys.argv[1]](int(sys.argv[2]))))
