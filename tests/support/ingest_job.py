"""A process with a warm Spark session that ingests where and when it is told; tests talk to it in lines.

Each line of standard input is a JSON object: `home`, and at wish `start_at` (a clock time), `kill_after` (a step after
which the process kills itself) and `unlocked` (no lock of the machine, as between two machines). The answer is a line.
"""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from datetime import date
from pathlib import Path
from typing import Any

from forecache.errors import ForecacheError
from forecache.pipeline import Column, Source
from forecache.settings import Settings, load_settings

ORDERS = Source(
    "orders",
    columns=(Column("order_id", "string"), Column("day", "date"), Column("amount", "double", minimum=0)),
    event_time="day",
    unique=("order_id",),
    start=date(2026, 1, 1),
)
STEPS = ("commit_raw", "commit_quarantine", "enter_files")


def settings_of(home: Path | str) -> Settings:
    return load_settings(home=home, spark_master="local[1]", spark_driver_memory="1g")


class Worker:
    """The process, from outside; ready when it is made."""

    def __init__(self, home: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, str(home)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def wait_until_ready(self) -> None:
        assert self.answer() == {"ready": True}

    def tell(self, **command: Any) -> None:
        assert self.process.stdin is not None
        print(json.dumps(command, default=str), file=self.process.stdin, flush=True)

    def answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        return json.loads(line) if line else None

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)


def main(warm_home: str) -> None:
    from forecache.lake.ingest import ingest as module
    from forecache.lake.spark.session import spark_session

    settings = settings_of(warm_home)
    spark = spark_session(settings)
    folder = Path(settings.landing_uri) / "orders"
    folder.mkdir(parents=True)
    (folder / "2026-01-01.csv").write_text("order_id,day,amount\na,2026-01-01,1\nb,2026-01-01,-1\n")
    module.ingest(spark, settings, ORDERS)
    print(json.dumps({"ready": True}), flush=True)
    real = {step: getattr(module, step) for step in (*STEPS, "own_turn")}
    for line in sys.stdin:
        command = json.loads(line)

        def stepped(step: str, command: Any = command) -> Any:
            def call(*arguments: Any, **named: Any) -> Any:
                result = real[step](*arguments, **named)
                if command.get("kill_after") == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                return result

            return call

        for step in STEPS:
            setattr(module, step, stepped(step))
        unlocked = command.get("unlocked")
        module.own_turn = (lambda *_: nullcontext()) if unlocked else real["own_turn"]
        time.sleep(max(0.0, command.get("start_at", 0.0) - time.time()))
        try:
            result = module.ingest(spark, settings_of(command["home"]), ORDERS)
            print(json.dumps({"files": result.details["files"]}), flush=True)
        except ForecacheError as error:
            print(json.dumps({"error": type(error).__name__, "text": str(error)}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
