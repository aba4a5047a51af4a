"""`returns` of the sample project with features and a label that come from visits, and rules for training again."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sample_project.pipelines import visits

from forecache.declare import Baseline, Retraining


def seen(events: Mapping[str, Any]) -> Any:
    from pyspark.sql import functions as F

    last, first = F.max("day"), F.min("day")
    return (
        events["visits"]
        .groupBy("user_id", "as_of")
        .agg(
            F.datediff("as_of", last).alias("recency"),
            F.sum("amount").alias("amount"),
            F.count("*").alias("visits"),
            F.datediff(last, first).alias("gap"),
            (F.crc32("user_id") % 1000).alias("noise"),
        )
    )


def came_back(entities: Any, events: Mapping[str, Any]) -> Any:
    from pyspark.sql import functions as F

    came = events["visits"].select("user_id", "as_of").distinct().withColumn("came", F.lit(1.0))
    joined = entities.join(came, ["user_id", "as_of"], "left")
    return joined.select("user_id", "as_of", F.coalesce("came", F.lit(0.0)).alias("returned"))


monitored = replace(
    visits.returns,
    features=replace(visits.returns.features, compute=seen),
    label=replace(visits.returns.label, compute=came_back),
    gate=replace(visits.returns.gate, baseline=Baseline("noise"), max_regression=0.5),
    retraining=Retraining(ignore=("noise",), cool_down_days=0),
)
