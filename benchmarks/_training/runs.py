"""Measurements of whole runs under torchrun: scaling over processes, memory over table sizes, recovery from kills."""

import json
import os
import statistics
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import psutil
from _common.memory import high_water_bytes, watching

from _training.chaos import run_chaos, workers_of
from _training.progress import say
from _training.project.pipelines.bench import PIPELINES
from _training.sizes import Sizes
from _training.tables import write_table
from forecache.base.settings import Settings, load_settings
from forecache.declare import Training
from forecache.models.training.spec import TrainingSpec
from forecache.plugins.torch.launch import run_torchrun

BENCHMARKS = Path(__file__).resolve().parent.parent
_CHAOS_STEPS = 25


def single(section: str, work: Path, sizes: Sizes) -> dict[str, Any]:
    """A section of `_training.single` in processes of their own, torch held to one thread, on one core and on two.

    The cores hold everything of the process: the loop, the readers' threads and their worker processes.
    """
    table = write_table(work / section, sizes.reading_rows)
    paths = os.pathsep.join([str(BENCHMARKS), str(BENCHMARKS.parent)])
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": paths,
        "FORECACHE_BENCH_PEERS": str(BENCHMARKS.parent / ".tools" / "peers"),
    }
    found: dict[str, Any] = {}
    for cores in (2, 1) if section == "reading" else (2,):
        say(f"{section}: {cores} cores")
        repeats = sizes.repeats if section == "reading" else 2 * sizes.repeats
        command = [
            sys.executable,
            "-m",
            "_training.single",
            section,
            table,
            str(sizes.seconds),
            str(repeats),
            str(cores),
        ]
        done = subprocess.run(command, cwd=BENCHMARKS, env=environment, stdout=subprocess.PIPE, check=True)
        found[str(cores)] = json.loads(done.stdout.splitlines()[-1])
    return {"cores": found}


def workers(work: Path, sizes: Sizes) -> dict[str, Any]:
    """Samples per second of one process and of two on the compute-bound network, one thread each."""
    table = write_table(work / "wide", sizes.wide_rows)
    speeds: dict[int, list[float]] = {1: [], 2: []}
    for repeat in range(sizes.wide_repeats):
        for count in (1, 2):
            spec = _spec(work / f"wide-{count}-{repeat}", "bench_wide", table)
            result = run_torchrun(_settings(work, count), spec, on_event=_ignore)
            found = [epoch["rows_per_s"] for epoch in result["history"][1:]]  # the first epoch warms up
            speeds[count].append(statistics.median(found))
            say(f"{count} processes: {speeds[count][-1]:,.0f} samples/s")
    return {"rows": sizes.wide_rows, "rows_per_s": {str(count): found for count, found in speeds.items()}}


def memory(work: Path, sizes: Sizes) -> dict[str, Any]:
    """Peak resident memory of a worker that trains over all rows, until it exports, by the table's rows; no cache."""
    peaks: dict[str, int] = {}
    for rows in sizes.memory_rows:
        table = write_table(work / "memory", rows)
        spec = replace(_spec(work / f"memory-{rows}", "bench_linear", table), cache_bytes=0)
        peak = _Peak()
        with watching(peak.look, every_s=0.1):
            result = run_torchrun(_settings(work, 1), spec, on_event=peak.on_event)
        peaks[str(rows)] = peak.bytes
        say(f"{rows:,} rows: peak {peak.bytes / 1e6:,.0f} MB, {result['history'][0]['rows_per_s']:,.0f} samples/s")
    return {"peak_bytes": peaks}


class _Peak:
    """The largest VmHWM of this process's workers, until the first one exports."""

    def __init__(self) -> None:
        self.bytes, self._over = 0, False

    def on_event(self, event: dict[str, Any]) -> None:
        self._over = self._over or event["event"] == "export"

    def look(self) -> None:
        if not self._over:
            agents = psutil.Process().children()
            workers = [worker for agent in agents for worker in workers_of(agent)]
            self.bytes = max([self.bytes, *(high_water_bytes(worker.pid) for worker in workers)])


def chaos(work: Path, sizes: Sizes) -> dict[str, Any]:
    """Kill a two-process run at random points; compare weights and samples with a run that nobody interrupted."""
    table = write_table(work / "chaos", sizes.chaos_rows)
    training = Training(epochs=sizes.chaos_epochs, batch_size=128, patience=1000)
    spec = replace(_spec(work / "chaos", "bench_narrow", table), training=training, checkpoint_steps=_CHAOS_STEPS)
    report = run_chaos(_settings(work, 2), spec, work / "chaos-runs", kills=sizes.kills, seed=sizes.chaos_seed)
    say(f"{report}")
    return {"checkpoint_steps": _CHAOS_STEPS, "kills_asked": sizes.kills, **asdict(report)}


def _settings(work: Path, count: int) -> Settings:
    os.environ["OMP_NUM_THREADS"] = "1"
    return load_settings(
        home=work / "home", project="_training.project", training_workers=count, training_max_restarts=1000
    )


def _spec(folder: Path, pipeline: str, table: str) -> TrainingSpec:
    training = PIPELINES[pipeline].training
    return TrainingSpec(
        str(folder), pipeline, table_uri=table, table_version=_version(table), inputs="bench", training=training
    )


def _version(table: str) -> int:
    from deltalake import DeltaTable

    return DeltaTable(table).version()


def _ignore(event: dict[str, Any]) -> None:
    """The events are read from the file afterwards."""
