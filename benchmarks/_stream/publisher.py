"""Publishes one correction after the other at fixed times; started again after a kill, it goes on where it stopped.

What is done stands in a file, a line for each publish that has ended. The process ends when all are done.
Usage: python -m _stream.publisher HOME PUBLISHES EVERY_S BEGIN (seconds since 1970) NICENESS
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from _store.lake import Curtain
from _store.swap_job import step_back

from _stream import nights
from forecache.base.settings import Settings, load_settings
from forecache.serve.store import publish


def done_file(settings: Settings) -> Path:
    return settings.home_path / "published.jsonl"


def done(settings: Settings) -> list[dict[str, Any]]:
    """The publishes that have ended."""
    path = done_file(settings)
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def rolled_back_file(settings: Settings) -> Path:
    """Where it is, the rollback of the section has been done; the last publish comes after it."""
    return settings.home_path / "rolled-back"


def go_on(settings: Settings, publishes: int, every_s: float, begin: float) -> None:
    from bench_spending.pipelines.spending import spending

    curtain = Curtain(settings.table_uri(nights.TABLE), 1)
    log = Path(settings.table_uri(nights.TABLE)) / "_delta_log"
    for number in range(len(done(settings)) + 1, publishes + 1):
        time.sleep(max(0.0, begin + (number - 1) * every_s - time.time()))
        while number == publishes and not rolled_back_file(settings).exists():
            time.sleep(0.1)
        # A killed publish has revealed its commit already.
        while len(list(log.glob("*.json"))) <= number:
            curtain.reveal()
        started = time.time()
        result = publish(settings, spending)
        details = {name: result.details.get(name) for name in ("version", "kind", "changed", "segments")}
        line = {"number": number, "started": started, "ended": time.time(), **details}
        with open(done_file(settings), "a") as file:
            file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    step_back(int(sys.argv[5]))
    os.environ.setdefault("FORECACHE_PROJECT", "bench_spending")
    home = load_settings(home=Path(sys.argv[1]), project="bench_spending")
    go_on(home, int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4]))
