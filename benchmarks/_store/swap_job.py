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
from forecache.settings import load_settings
from forecache.store.publishing import publish


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


def step_back(niceness: int) -> str:
    """Let this process run when the processor has nothing else to do, and say by which means.

    A publisher that shares a machine with a reader has until the next publish. A control group that is idle is what
    `CPUWeight=idle` makes of a systemd service. Where there is none to be had, niceness is left: of the process, and of
    its session's autogroup, which is what counts beside other sessions.
    """
    for controller in (Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup")):
        group = controller / "forecache-benchmark"
        try:
            group.mkdir(exist_ok=True)
            (group / "cpu.idle").write_text("1")
            (group / "cgroup.procs").write_text(str(os.getpid()))
        except OSError:
            continue
        return "an idle control group"
    os.nice(niceness)
    autogroup = Path("/proc/self/autogroup")
    if autogroup.exists():
        autogroup.write_text(str(niceness))
    return f"niceness {niceness}"


if __name__ == "__main__":
    means = step_back(int(sys.argv[5]))
    outcome = main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
    print("RESULT " + json.dumps({"priority": means, "publishes": outcome}))
