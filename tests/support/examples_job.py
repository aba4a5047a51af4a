"""Writes the training set of the offers in a process of its own: `HOME [STEP]` kills it at that step of its commit."""

import os
import signal
import sys
from pathlib import Path

from offered_sample import NIGHT, brief

TRANSFORMING = "transforming the requests of offers"


def main() -> None:
    from forecache.base.settings import load_settings
    from forecache.base.steps import lake_step
    from forecache.kit.spark.session import spark_session
    from forecache.plugins.historical_features.training_set import build_examples

    home, *kill = sys.argv[1:]
    settings = load_settings(home=Path(home), project="offered_project", spark_master="local[2]")
    spark_session(settings)

    def die(name: str) -> None:
        if name in kill:
            os.kill(os.getpid(), signal.SIGKILL)

    def progress(message: str, share: float | None = None) -> None:
        if message == TRANSFORMING:  # tiles are committed before
            lake_step.on_step = die
            die("transforming")

    print("ready", flush=True)
    sys.stdin.readline()
    result = build_examples(settings, brief, NIGHT, progress=progress)
    print(result.delta_version, result.skipped, flush=True)


if __name__ == "__main__":
    main()
