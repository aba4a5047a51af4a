"""A scoring run in small parts, as a process of its own runs it until it is killed."""

import os
import time
from pathlib import Path
from typing import Any

from scoring_support import NIGHT, make_pipeline

from forecache.base.settings import load_settings
from forecache.scoring.partitions import shards
from forecache.scoring.run import score
from forecache.scoring.tasks import engines, job


def score_in_parts(home: Path, engine: str, told: Any) -> None:
    """Score the night, as the leader of a process group that a JVM belongs to; tells "ready" and the rows scored."""
    os.setsid()
    shards.SHARDED_ROWS = engines.ROWS_A_SPARK_TASK = 1000
    job.PART_ROWS = 10_000
    given = {"spark_master": "local[2]", "spark_driver_memory": "1g", "scoring_batch_rows": 5000}
    settings = load_settings(home=home, code_version="fixed", **given)
    if engine == "spark":
        from forecache.kit.spark.session import spark_session

        spark_session(settings)
    told.send("ready")
    result = score(settings, make_pipeline(), [NIGHT], run_id="after", engine=engine, progress=_slowly)
    told.send(result.details.get("scored_rows", 0))


def _slowly(text: str, share: float | None = None) -> None:
    time.sleep(0.1)  # so that a busy machine still finds the run alive after a shard
