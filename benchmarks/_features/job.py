"""One way in a process of its own: `python -m _features.job HOME NIGHTS DAYS WAY all|next`, JSON as its last line."""

import json
import sys
import time
from datetime import timedelta
from pathlib import Path

import psutil
from _common.memory import proportional_bytes, watching

from _features.ways import START, WAYS
from forecache.base.settings import load_settings
from forecache.kit.delta.dataset import open_dataset
from forecache.kit.delta.tables import open_table


def main() -> None:
    home, num_nights, days, way, how = sys.argv[1:]
    from forecache.kit.spark.session import spark_session

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

    cpu_at_start = cpu_s(process)
    before_s = 0.0
    with watching(look, every_s=0.5):
        if how == "next":
            # Only tiles have a use for what was before; the others are warm after one night.
            started = time.perf_counter()
            build(spark, settings, nights[:-1] if way == "day tiles" else nights[-2:-1])
            before_s = time.perf_counter() - started
        cpu_before, started = cpu_s(process), time.perf_counter()
        build(spark, settings, nights[-1:] if how == "next" else nights)
        seconds, cpu_now = time.perf_counter() - started, cpu_s(process)
    rows = open_dataset(open_table(settings, table)).count_rows()
    told = {"seconds": seconds, "cpu_s": cpu_now - cpu_before, "before_s": before_s}
    print(json.dumps({**told, "all_cpu_s": cpu_now - cpu_at_start, "peak_bytes": peak, "rows": rows}))


def cpu_s(process: psutil.Process) -> float:
    """CPU seconds so far of a process and of its children, those that ended too."""
    total = 0.0
    for each in [process, *process.children(recursive=True)]:
        try:
            times = each.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


if __name__ == "__main__":
    main()
