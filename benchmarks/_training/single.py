"""Measurements inside one worker process: `python -m _training.single SECTION TABLE SECONDS REPEATS CORES`, JSON out.

The process and all that it starts, the readers' threads and worker processes included, have the first CORES cores.

Every variant runs the framework's loop, network and batch; only where the rows come from, or how often a checkpoint is
written, differs. The variants take turns, so that a busier minute of the machine meets them all.
"""

import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from deltalake import DeltaTable

from _training.peers import FrameRows, LitDataReader, LoaderReader, MatrixRows, MemoryReader, write_litdata
from _training.progress import say
from _training.project.pipelines.bench import LABEL, NAMES, bench_narrow
from forecache.base.folders import LocalFolder
from forecache.plugins.torch.worker.checkpoints import Checkpoints
from forecache.plugins.torch.worker.group import WorkerGroup
from forecache.plugins.torch.worker.loop import TrainingLoop
from forecache.plugins.torch.worker.network import Objective, Prepare, fit_statistics, log_mask
from forecache.plugins.torch.worker.reader import BatchReader, EpochOrder, TrainingBatch
from forecache.plugins.torch.worker.session import TrainingSession
from forecache.plugins.torch.worker.split import TableSplit

_NEVER = 1 << 60
_CHECKPOINT_STEPS = 50


class Timed:
    """A reader over as many epochs as some seconds take, counted from the moment its first batch is asked for.

    So the seconds hold whatever a reader does before that: opening, filling a buffer, starting processes. Tensors in
    memory and frames have been loaded before, which flatters them.
    """

    def __init__(self, reader: Any, seconds: float, session: TrainingSession) -> None:
        self.reader, self.seconds, self.session = reader, seconds, session
        self.lanes, self.digests = reader.lanes, reader.digests
        self.rows = self.epochs = 0
        self.first_batch_s = 0.0
        self.started = 0.0

    def epoch(self, epoch: int, *, first_step: int = 0) -> Iterator[TrainingBatch]:
        self.started = time.perf_counter()
        while True:
            for batch in self.reader.epoch(self.epochs):
                if not self.rows:
                    self.first_batch_s = time.perf_counter() - self.started
                # The loop that trains counts steps within one epoch.
                self.session.step %= self.session.train.num_steps
                yield batch
                self.rows += len(batch)
                if time.perf_counter() >= self.started + self.seconds:
                    return
            self.epochs += 1


class Bench:
    """One table and one process group, from which loops are made."""

    def __init__(self, table: str) -> None:
        self.group = _group()
        self.delta = DeltaTable(table)
        self.split = self.new_split("train")
        self.validation = EpochOrder(self.new_split("validation"), seed=0, batch_rows=1 << 15, lanes=8, shuffle_rows=0)
        mask = log_mask(bench_narrow)
        self.prepare = Prepare(mask, fit_statistics(self.validation.split, mask))
        self.first_batch_s: dict[str, list[float]] = {}
        self.folder = Path(tempfile.mkdtemp(prefix="forecache-checkpoints-"))

    def new_split(self, name: str, *, cache_bytes: int = 0) -> TableSplit:
        return TableSplit(self.delta, name, features=NAMES, label=LABEL, cache_bytes=cache_bytes)

    def order(self, split: TableSplit) -> EpochOrder:
        batch_rows = bench_narrow.training.batch_size
        return EpochOrder(split, seed=7, batch_rows=batch_rows, lanes=8, shuffle_rows=1 << 18)

    def rows_per_s(
        self, name: str, make_reader: Callable[[EpochOrder], Any], seconds: float, *, checkpoint_steps: int
    ) -> float:
        """Samples per second of the loop over some seconds; waits for checkpoints to be on disk."""
        torch.manual_seed(7)
        order = self.order(self.split)
        session = TrainingSession(
            self.group,
            replace(bench_narrow.training, epochs=1000),
            prepare=self.prepare,
            objective=Objective(bench_narrow),
            train=order,
            validation=self.validation,
            checkpoints=Checkpoints(LocalFolder(self.folder), self.group, inputs="bench", keep=2),
            checkpoint_steps=checkpoint_steps,
            report=lambda event, **values: None,
            beat=lambda step: None,
        )
        session.reader.close()
        timed = Timed(make_reader(order), seconds, session)
        session.reader = timed
        TrainingLoop(session, bench_narrow.model.build(len(NAMES))).train_epoch()
        session.checkpoints.wait()
        took = time.perf_counter() - timed.started
        self.first_batch_s.setdefault(name, []).append(timed.first_batch_s)
        if hasattr(timed.reader, "close"):
            timed.reader.close()
        return timed.rows / took


def _group() -> WorkerGroup:
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "GLOO_SOCKET_IFNAME": "lo"}
    return WorkerGroup("cpu")


def _stream(order: EpochOrder) -> BatchReader:
    return BatchReader(order, rank=0, world_size=1)


def reading(bench: Bench, seconds: float, repeats: int) -> dict[str, Any]:
    """Samples per second while training, by where the rows come from."""
    started = time.perf_counter()
    rows = np.concatenate([part for chunk in bench.split.chunks for part in bench.split.read(chunk)])
    features, target = torch.from_numpy(rows[:, :-1].copy()), torch.from_numpy(rows[:, -1:].copy())
    load_s = time.perf_counter() - started
    frame = pd.DataFrame(rows, columns=[*NAMES, LABEL])
    batch_rows = bench_narrow.training.batch_size
    frame_rows, matrix_rows = FrameRows(frame, LABEL), MatrixRows(frame, LABEL)
    started = time.perf_counter()
    litdata = bench.folder / "litdata"
    write_litdata(rows, litdata)
    litdata_s = time.perf_counter() - started
    variants: dict[str, Callable[[EpochOrder], Any]] = {
        "memory": lambda order: MemoryReader(order, features, target),
        "delta": _stream,
    }
    # Worker processes need a core of their own to gain anything.
    for count in (0, 2) if len(os.sched_getaffinity(0)) > 1 else (0,):
        options: dict[str, Any] = {"batch_rows": batch_rows, "num_workers": count}
        variants |= {
            f"pandas rows, {count} workers": lambda _, o=options: LoaderReader(frame_rows, **o),  # type: ignore[misc]
            f"matrix rows, {count} workers": lambda _, o=options: LoaderReader(matrix_rows, **o),  # type: ignore[misc]
            f"matrix batches, {count} workers": lambda _, o=options: LoaderReader(  # type: ignore[misc]
                matrix_rows, whole_batches=True, **o
            ),
            f"litdata, {count} workers": lambda _, o=options: LitDataReader(litdata, **o),  # type: ignore[misc]
        }
    found = _take_turns(bench, {name: (make, _NEVER) for name, make in variants.items()}, seconds, repeats)
    return {
        "rows": len(rows),
        "batch_rows": batch_rows,
        "seconds": seconds,
        "threads": torch.get_num_threads(),
        "rows_per_s": found,
        "first_batch_s": {name: statistics.median(waits) for name, waits in bench.first_batch_s.items()},
        "memory_load_s": load_s,
        "litdata_write_s": litdata_s,
    }


def checkpoints(bench: Bench, seconds: float, repeats: int) -> dict[str, Any]:
    """Samples per second with a checkpoint every 50 steps, and with none."""
    variants = {"never": (_stream, _NEVER), "every_50_steps": (_stream, _CHECKPOINT_STEPS)}
    found = _take_turns(bench, variants, seconds, repeats)
    return {"rows": bench.split.rows, "threads": torch.get_num_threads(), "rows_per_s": found}


def _take_turns(
    bench: Bench, variants: dict[str, tuple[Callable[[EpochOrder], Any], int]], seconds: float, repeats: int
) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {name: [] for name in variants}
    for repeat in range(-1, repeats):
        names = list(variants) if repeat % 2 else list(reversed(variants))
        for name in names:
            make, steps = variants[name]
            speed = bench.rows_per_s(name, make, min(seconds, 1.0) if repeat < 0 else seconds, checkpoint_steps=steps)
            if repeat >= 0:  # the first round only warms up
                found[name].append(speed)
                say(f"{name}: {speed:,.0f} samples/s")
    say(", ".join(f"{name} {statistics.median(speeds):,.0f}" for name, speeds in found.items()))
    return found


def main() -> None:
    section, table, seconds, repeats, cores = sys.argv[1:]
    os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[: int(cores)]))
    torch.use_deterministic_algorithms(True)
    bench = Bench(table)
    measure = {"reading": reading, "checkpoints": checkpoints}[section]
    try:
        print(json.dumps(measure(bench, float(seconds), int(repeats))))
    finally:
        bench.group.close()
        shutil.rmtree(bench.folder, ignore_errors=True)


if __name__ == "__main__":
    main()
