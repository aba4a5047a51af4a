"""Measurements of whole runs under torchrun: scaling over processes, memory over table sizes, recovery from kills."""

import json
import os
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from _training.progress import say
from _training.project.pipelines.bench import PIPELINES
from _training.sizes import Sizes
from _training.tables import write_table
from forecache.errors import ForecacheError
from forecache.pipeline import Training
from forecache.settings import Settings, load_settings
from forecache.training.spec import METRICS_FILE, TrainingSpec
from forecache.training.torchrun import run_torchrun

BENCHMARKS = Path(__file__).resolve().parent.parent
_WORKER = "forecache.training.worker"


def single(section: str, table: str, seconds: float, repeats: int) -> dict[str, Any]:
    """Run a section of `_training.single` in a process of its own, torch held to one thread."""
    command = [sys.executable, "-m", "_training.single", section, table, str(seconds), str(repeats)]
    paths = os.pathsep.join([str(BENCHMARKS), str(BENCHMARKS.parent)])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    done = subprocess.run(command, cwd=BENCHMARKS, env=environment, stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


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
        with _peak_of_workers() as peak:
            result = run_torchrun(_settings(work, 1), spec, on_event=peak.on_event)
        peaks[str(rows)] = peak.bytes
        say(f"{rows:,} rows: peak {peak.bytes / 1e6:,.0f} MB, {result['history'][0]['rows_per_s']:,.0f} samples/s")
    return {"peak_bytes": peaks}


class _Peak:
    """The largest VmHWM of this process's workers, sampled ten times a second, until the first one exports."""

    def __init__(self) -> None:
        self.bytes, self._over = 0, threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def on_event(self, event: dict[str, Any]) -> None:
        if event["event"] == "export":
            self._over.set()

    def _sample(self) -> None:
        while not self._over.wait(0.1):
            for process in _workers_of(psutil.Process()):
                self.bytes = max(self.bytes, _high_water_bytes(process.pid))


@contextmanager
def _peak_of_workers() -> Iterator[_Peak]:
    peak = _Peak()
    peak._thread.start()
    try:
        yield peak
    finally:
        peak._over.set()
        peak._thread.join()


def _high_water_bytes(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    lines = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(lines[0].split()[1]) * 1024 if lines else 0


def _workers_of(process: psutil.Process) -> list[psutil.Process]:
    found = []
    for child in process.children(recursive=True):
        try:
            if _WORKER in child.cmdline():
                found.append(child)
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


def chaos(work: Path, sizes: Sizes) -> dict[str, Any]:
    """Kill a two-process run at random points; compare weights and samples with a run that nobody interrupted."""
    table = write_table(work / "chaos", sizes.chaos_rows)
    settings = _settings(work, 2)
    training = Training(epochs=sizes.chaos_epochs, batch_size=128, patience=1000)
    spec = replace(_spec(work / "chaos-reference", "bench_narrow", table), training=training, checkpoint_steps=25)
    started = time.perf_counter()
    reference = run_torchrun(settings, spec, on_event=_ignore)
    undisturbed_s = time.perf_counter() - started
    say(f"uninterrupted: {reference['steps']} steps in {undisturbed_s:.0f} s")
    rng, runs = random.Random(sizes.chaos_seed), []
    while sum(run["kills"] for run in runs) < sizes.kills:
        wanted = sizes.kills - sum(run["kills"] for run in runs)
        folder = work / f"chaos-{len(runs)}"
        runs.append(_killed_run(settings, replace(spec, run_dir=str(folder)), rng, wanted, reference, undisturbed_s))
        say(f"run {len(runs)}: {runs[-1]}")
    return {"steps": reference["steps"], "checkpoint_steps": 25, "undisturbed_s": undisturbed_s, "runs": runs}


def _killed_run(
    settings: Settings,
    spec: TrainingSpec,
    rng: random.Random,
    wanted: int,
    reference: dict[str, Any],
    undisturbed_s: float,
) -> dict[str, Any]:
    killer = _Killer(spec.folder / METRICS_FILE, rng, wanted)
    started = time.perf_counter()
    killer.start()
    result = None
    while result is None:
        try:
            result = run_torchrun(settings, spec, on_event=_ignore)
        except ForecacheError as error:
            if not killer.ended_it():
                raise error
    took = time.perf_counter() - started
    killer.over.set()
    killer.join()
    starts = [event for event in _events(spec.folder / METRICS_FILE) if event["event"] == "start"]
    return {
        "kills": sum(killer.kinds.values()),
        "kinds": killer.kinds,
        "attempts": len(starts),
        "steps_repeated": sum(max(0, start["reached_step"] - start["step"]) for start in starts[1:]),
        "seconds": took,
        "seconds_lost": took - undisturbed_s,
        "weights_equal": result["weights_digest"] == reference["weights_digest"],
        "samples_equal": result["sample_digests"] == reference["sample_digests"],
    }


class _Killer(threading.Thread):
    """Kills one worker, all processes, or asks for a stop, at random moments while a run starts or trains."""

    def __init__(self, metrics: Path, rng: random.Random, wanted: int) -> None:
        super().__init__(daemon=True)
        self.metrics, self.rng, self.wanted = metrics, rng, wanted
        self.kinds = {"worker": 0, "all": 0, "term": 0}
        self.over = threading.Event()
        self._ended = 0

    def ended_it(self) -> bool:
        """Whether a kill since the last question was of a kind that ends the whole attempt."""
        ended, self._ended = self._ended, 0
        return ended > 0

    def run(self) -> None:
        seen = 0
        while sum(self.kinds.values()) < self.wanted and not self.over.is_set():
            if self.rng.random() < 0.2:  # while it starts
                if self.over.wait(self.rng.uniform(0.0, 4.0)):
                    return
            else:
                while _count_starts(self.metrics) <= seen:
                    if self.over.wait(0.05):
                        return
                if self.over.wait(self.rng.uniform(0.1, 2.0)):
                    return
            seen = _count_starts(self.metrics)
            self._kill(self.rng.choice(("worker", "worker", "all", "term")))

    def _kill(self, kind: str) -> None:
        children = psutil.Process().children()
        victims = _workers_of(psutil.Process())
        agents = [child for child in children if child not in victims]
        if not victims or not agents:
            return
        if kind == "worker":
            _send([self.rng.choice(victims)], signal.SIGKILL)
        else:
            self._ended += 1
            _send([*agents, *victims] if kind == "all" else agents, signal.SIGKILL if kind == "all" else signal.SIGTERM)
        self.kinds[kind] += 1


def _send(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            continue


def _count_starts(metrics: Path) -> int:
    return sum(event["event"] == "start" for event in _events(metrics))


def _events(metrics: Path) -> list[dict[str, Any]]:
    if not metrics.is_file():
        return []
    found = []
    for line in metrics.read_text().splitlines():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:  # cut short by a kill
            continue
    return found


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
