"""`returns` of the sample project with a label that comes from visits, and rules for training again."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sample_project.pipelines import visits

from forecache.pipeline import Retraining


def came_back(entities: Any, events: Mapping[str, Any]) -> Any:
    from pyspark.sql import functions as F

    came = events["visits"].select("user_id", "as_of").distinct().withColumn("came", F.lit(1.0))
    joined = entities.join(came, ["user_id", "as_of"], "left")
    return joined.select("user_id", "as_of", F.coalesce("came", F.lit(0.0)).alias("returned"))


monitored = replace(
    visits.returns,
    label=replace(visits.returns.label, compute=came_back),
    retraining=Retraining(ignore=("noise",), cool_down_days=0),
)
