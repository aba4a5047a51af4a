"""Publishes at fixed times while the load runs; prints the outcome as JSON.

Says READY when everything is loaded, and begins when a line comes in, so that its start does not fall into the load.
Usage: python -m _store.swap_job HOME FIRST_HIDDEN COUNT EVERY_S NICENESS
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from _store import rows
from _store.lake import TABLE, Curtain
from forecache.base.settings import load_settings
from forecache.serve.store.publishing.publish import publish


def main(home: Path, first_hidden: int, count: int, every_s: float) -> list[dict[str, Any]]:
    settings, pipeline = load_settings(home=home), rows.pipeline()
    curtain = Curtain(settings.table_uri(TABLE), first_hidden)
    published = []
    print("READY", flush=True)
    sys.stdin.readline()
    begin = time.time()
    for number in range(count):
        time.sleep(max(0.0, begin + number * every_s - time.time()))
        curtain.reveal()
        started = time.time()
        result = publish(settings, pipeline)
        published.append(
            {
                "started": started,
                "ended": time.time(),
                "seconds": result.seconds,
                **{name: result.details[name] for name in ("version", "kind", "changed", "segments")},
            }
        )
    return published


def step_back(niceness: int) -> None:
    """Run at low priority: a publisher that shares a machine with a reader has until the next publish.

    Where the system groups processes by session (autogroup), niceness counts only inside the group, and the group's
    own is what counts beside others, as a service's CPUWeight does under systemd.
    """
    os.nice(niceness)
    group = Path("/proc/self/autogroup")
    if group.exists():
        group.write_text(str(niceness))


if __name__ == "__main__":
    step_back(int(sys.argv[5]))
    outcome = main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
    print("RESULT " + json.dumps(outcome))
