"""One way in a process of its own: `python -m _features.job HOME WAY NIGHTS DAYS each|all`, JSON as its last line."""

import json
import statistics
import sys
import time
from datetime import timedelta
from pathlib import Path

import psutil
from _common.memory import proportional_bytes, watching

from _features.ways import START, WAYS
from forecache.lake.delta.tables import open_table
from forecache.settings import load_settings


def main() -> None:
    home, way, num_nights, days, how = sys.argv[1:]
    from forecache.lake.spark.session import spark_session

    settings = load_settings(home=Path(home), spark_master="local[2]")
    build, table = WAYS[way]
    last = START + timedelta(days=int(days) - 1)
    nights = [last - timedelta(days=n) for n in reversed(range(int(num_nights)))]
    spark = spark_session(settings)
    spark.range(10).count()
    process, peak = psutil.Process(), 0

    def look() -> None:
        nonlocal peak
        alive = [process, *process.children(recursive=True)]
        peak = max(peak, sum(proportional_bytes(each) for each in alive if each.is_running()))

    seconds = []
    with watching(look, every_s=0.5):
        for some in ([night] for night in nights) if how == "each" else [nights]:
            started = time.perf_counter()
            build(spark, settings, some)
            seconds.append(time.perf_counter() - started)
    rows = open_table(settings, table).to_pyarrow_dataset().count_rows()
    told = {"seconds": sum(seconds), "first_s": seconds[0], "median_s": statistics.median(seconds), "rows": rows}
    print(json.dumps({**told, "peak_bytes": peak}))


if __name__ == "__main__":
    main()
