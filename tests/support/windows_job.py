"""Builds the nights of the windows sample in a process of its own: `HOME [STEP COUNT]` kills it after that step."""

import os
import signal
import sys
from pathlib import Path

from windows_sample import VIEW, days_after

NIGHTS = [days_after(number) for number in (2, 4, 5)]


def main() -> None:
    from forecache.lake.feature_tables.features import build_view
    from forecache.lake.spark.session import spark_session
    from forecache.settings import load_settings
    from forecache.steps import lake_step

    home, *kill = sys.argv[1:]
    settings = load_settings(home=Path(home), spark_master="local[2]")
    spark = spark_session(settings)
    left = int(kill[1]) if kill else 0

    def die(name: str) -> None:
        nonlocal left
        left -= name == kill[0]
        if name == kill[0] and not left:
            os.kill(os.getpid(), signal.SIGKILL)

    if kill:
        lake_step.on_step = die
    print("ready", flush=True)
    sys.stdin.readline()
    print(build_view(spark, settings, VIEW, NIGHTS).rows, flush=True)


if __name__ == "__main__":
    main()
