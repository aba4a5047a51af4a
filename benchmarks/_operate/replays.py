"""Section parity: logged answers of the engine are computed again by `forecache parity` on two cores."""

import contextlib
import json
import os
import subprocess
import time
from datetime import date
from pathlib import Path
from typing import Any

from _store.processes import PYTHON, ROOT, BenchmarkError, run_checked, watch_memory
from _store.progress import say

from _operate import home
from _operate.sizes import Sizes
from forecache.base.settings import Settings
from forecache.realtime.log.commit_loop import merge_small
from forecache.realtime.log.commit_segments import commit_ready
from forecache.realtime.log.spool_files import read_state

PROCESSES = 2


def measure(work: Path, sizes: Sizes) -> dict[str, Any]:
    """The time from the command's start to its verdict; and that it finds a bit that was turned."""
    settings = home.serving(work, sizes.keys)
    began = time.perf_counter()
    answered(settings, sizes)
    made_s = time.perf_counter() - began
    say(f"parity: {sizes.replayed:,} answers logged in {made_s:.0f} s")
    with watch_memory() as memory:
        began = time.perf_counter()
        told = run_checked(
            [PYTHON, "-m", "forecache.cli.main", "parity", home.WITH, "--processes", PROCESSES, "--json"],
            environment={"FORECACHE_HOME": str(settings.home_path)},
        )
        seconds = time.perf_counter() - began
    details = json.loads(told)
    home.forget_log(settings)
    found = {name: details[name] for name in ("requests", "equal", "differ", "not_recomputed", "by_model", "passed")}
    say(f"parity: {found['equal']:,} of {found['requests']:,} equal in {seconds:.0f} s")
    return {
        **found, "asked": sizes.replayed, "seconds": seconds, "seconds_replay": details["seconds_replay"],
        "made_s": made_s, "memory_bytes": memory.resident, "anonymous_bytes": memory.anonymous,
        "values": sum(each["compared"] for each in details["features"].values()),
        "stores": [each["state"] for each in details["stores"]],
    }  # fmt: skip


def answered(settings: Settings, sizes: Sizes) -> None:
    """Have two processes answer and log, while this one commits.

    Raises:
        BenchmarkError: A row was lost.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "benchmarks"), str(ROOT)])}
    shares = [sizes.replayed // PROCESSES] * PROCESSES
    shares[0] += sizes.replayed % PROCESSES
    rows = 0
    with contextlib.ExitStack() as stack:
        processes = []
        for seed, count in enumerate(shares):
            command = [PYTHON, "-m", "_operate.answer_job", settings.home_path, str(count), str(seed), str(sizes.keys)]
            process = subprocess.Popen(
                command, cwd=ROOT / "benchmarks", env=environment, stdout=subprocess.PIPE, text=True
            )
            processes.append(stack.enter_context(process))
            stack.callback(process.kill)  # where a commit fails, they would take the cores of the next section
        while any(process.poll() is None for process in processes):
            rows += commit_ready(settings, home.WITH).rows
            time.sleep(0.2)
        while (done := commit_ready(settings, home.WITH)).segments:
            rows += done.rows
        told = [json.loads(process.stdout.read()) for process in processes if process.stdout is not None]
    state = read_state(settings.request_log_path / home.WITH)
    if sum(each["logged"] for each in told) != sizes.replayed or state.lost_damaged or rows != sizes.replayed:
        raise BenchmarkError(f"{rows:,} of {sizes.replayed:,} answers are in the log: {told}, {state}.")
    merge_small(settings, home.WITH, today=date.max)
