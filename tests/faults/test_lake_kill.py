"""A process killed with SIGKILL in the middle of a stage loses nothing and doubles nothing when it is run again."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping

import pytest

from dagster_project.purchases import land
from forecache.lake.query import query
from forecache.settings import Settings

pytestmark = [pytest.mark.slow, pytest.mark.faults]

PROGRAM = """
from datetime import date
from dagster_project.purchases import PURCHASES
from forecache.lake.features import build_features
from forecache.lake.ingest import ingest
from forecache.lake.spark import spark_session
from forecache.pipeline import load_pipeline
from forecache.settings import load_settings
settings = load_settings()
spark = spark_session(settings)
print("started", flush=True)
ingest(spark, settings, PURCHASES)
build_features(spark, settings, load_pipeline(settings, "churn"), [date(1998, 6, 29), date(1998, 6, 30)])
print("done", flush=True)
"""


def start(settings: Settings) -> subprocess.Popen[str]:
    environment: Mapping[str, str] = {
        **os.environ,
        "FORECACHE_HOME": str(settings.home),
        "FORECACHE_SPARK_MASTER": "local[2]",
        "FORECACHE_SPARK_DRIVER_MEMORY": "1g",
    }
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM], env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
    )


def test_stages_killed_at_any_moment_end_with_the_rows_of_a_run_never_killed(settings: Settings) -> None:
    land(settings)
    for seconds in (4.0, 8.0, 12.0):
        process = start(settings)
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        time.sleep(seconds)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    process = start(settings)
    output, _ = process.communicate(timeout=240)
    assert output.splitlines()[-1] == "done"
    (counts,) = query(
        settings,
        """select (select count(*) from raw_purchases) as raw,
                  (select count(distinct source_file || ':' || source_line) from raw_purchases) as distinct_raw,
                  (select count(*) from ingested_files) as files,
                  (select count(*) from features_churn where as_of = '1998-06-30') as features""",
    ).to_pylist()
    assert counts == {"raw": 69659, "distinct_raw": 69659, "files": 546, "features": 23570}
