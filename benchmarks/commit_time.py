"""How long a night's partition takes to be written and committed, by a warm Spark session.

PYTHONPATH=. .venv/bin/python benchmarks/commit_time.py      about 20 seconds

Another checkout's code is measured with its folder as PYTHONPATH; alternate the two.
"""

import statistics
import tempfile
import time
from datetime import date, timedelta

from pyspark.sql import functions as F

from forecache.base.settings import load_settings
from forecache.kit.delta.partitions import take_snapshot
from forecache.kit.delta.tables import commit_partitions
from forecache.kit.delta.writers import write_frame
from forecache.kit.spark.session import spark_session

ROWS, COLUMNS, NIGHTS, WARM_UP = 23_570, 12, 7, 4


def main() -> None:
    """Print the seconds of the first commit, and the median, least and most of those after the warm-up."""
    with tempfile.TemporaryDirectory() as home:
        settings = load_settings(home=home, spark_master="local[2]", spark_driver_memory="1g")
        spark = spark_session(settings)
        seconds = []
        for number in range(2 * NIGHTS):  # each night twice: first new, then replaced
            night = date(2026, 1, 1) + timedelta(days=number // 2)
            values = [F.rand(column).cast("float").alias(f"f{column}") for column in range(COLUMNS)]
            frame = spark.range(ROWS).select(
                F.col("id").cast("string").alias("key"), *values, F.lit(night).alias("as_of")
            )
            started = time.perf_counter()
            seen = take_snapshot(settings, "features_measured", "as_of")
            written = write_frame(frame, settings, "features_measured", partition_by="as_of")
            commit_partitions(written, settings, "features_measured", column="as_of", values=[night], seen=seen)
            seconds.append(time.perf_counter() - started)
    later = seconds[WARM_UP:]
    print(
        f"the first {seconds[0]:.2f} s; later ones {statistics.median(later):.2f} s "
        f"({min(later):.2f} to {max(later):.2f})"
    )


if __name__ == "__main__":
    main()
