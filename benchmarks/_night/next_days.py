"""A day more of a small project, each by a command of its own: CPU seconds and memory from its start to its end."""

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import psutil
from _common.memory import proportional_bytes, watching

ROOT = Path(__file__).resolve().parents[2]
LAST = date(1998, 6, 30)
DAYS = {"tiny": 1, "full": 7}
"""How many days more are run."""
_SAMPLE_S = 0.02


def measure(home: Path, size: str) -> dict[str, Any]:
    """Land all days but the last ones, train and run; then land and run one after the other."""
    os.environ["FORECACHE_HOME"] = str(home)  # with the dates of the data, and not of another home
    from dagster_project.landing import landing_days
    from forecache.base.settings import load_settings
    from forecache.plugins.new_project.demo_data import land_demo_data

    shutil.rmtree(home, ignore_errors=True)
    settings, landed = load_settings(home=home), list(landing_days())
    first = LAST - timedelta(days=DAYS[size] - 1)
    try:
        land_demo_data(settings, [each for each in landed if each[1] < first])
        night = first - timedelta(days=1)
        run(home, night, "--job", "full")
        days = []
        while night < LAST:
            night += timedelta(days=1)
            today = [each for each in landed if each[1] == night]
            land_demo_data(settings, today)
            days.append({**run(home, night), "new_rows": sum(len(rows) for _, _, rows in today)})
    finally:
        shutil.rmtree(home, ignore_errors=True)
    return {"days": days}


def run(home: Path, night: date, *more: str) -> dict[str, Any]:
    """`forecache run` of a night: its seconds, CPU seconds and the most memory of all its processes (PSS)."""
    environment = {
        **os.environ,
        "FORECACHE_HOME": str(home),
        "FORECACHE_PROJECT": "_night.small",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "benchmarks")]),
    }
    command = [str(Path(sys.executable).with_name("forecache")), "run", "--date", str(night), "--json", *more]
    peak, names = 0, set[str]()

    def look() -> None:
        nonlocal peak
        top = psutil.Process(process.pid)
        alive = [top, *top.children(recursive=True)]
        peak = max(peak, sum(map(proportional_bytes, alive)))
        names.update(each.name() for each in alive)

    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, env=environment, text=True)
    with watching(look, every_s=_SAMPLE_S):
        output, _ = process.communicate()
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode:
        raise RuntimeError(f"{command} ended with {process.returncode}")
    stages = {each["stage"]: each["seconds"] for each in json.loads(output) if not each["skipped"]}
    if not more and ("java" in names or "publish" not in stages):
        raise RuntimeError(f"the night of {night} ran {sorted(names)}, and wrote {sorted(stages)}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": seconds, "cpu_s": cpu, "peak_bytes": peak, "stages": stages}
