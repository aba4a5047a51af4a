"""Measurements inside one worker process: `python -m _training.single SECTION TABLE SECONDS REPEATS`, JSON out.

Every variant runs the engine's own loop, network and batch; only where the rows come from, or how often a checkpoint is
written, differs. The variants take turns, so that a busier minute of the machine meets them all.
"""

import json
import os
import shutil
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from deltalake import DeltaTable

from _training.peers import FrameRows, LoaderReader, MatrixRows, MemoryReader
from _training.progress import say
from _training.project.pipelines.bench import LABEL, NAMES, bench_narrow
from forecache.training.worker.checkpoint import Checkpoints
from forecache.training.worker.data import Batch, EpochOrder, Reader, Split
from forecache.training.worker.group import Group
from forecache.training.worker.loop import Loop
from forecache.training.worker.model import Objective, Prepare, fit_statistics, log_mask
from forecache.training.worker.places import Folder
from forecache.training.worker.session import Session

_NEVER = 1 << 60
_CHECKPOINT_STEPS = 50


class Timed:
    """A reader cut off after some seconds, which are counted from its first batch on.

    The wait for that is told apart: a run has it once, and tensors in memory have to be loaded first too.
    """

    def __init__(self, reader: Any, seconds: float) -> None:
        self.reader, self.seconds = reader, seconds
        self.lanes, self.digests = reader.lanes, reader.digests
        self.rows = 0
        self.first_batch_s = 0.0
        self.started = 0.0

    def epoch(self, epoch: int, *, first_step: int = 0) -> Iterator[Batch]:
        asked = time.perf_counter()
        for batch in self.reader.epoch(epoch):
            if not self.started:
                self.started = time.perf_counter()
                self.first_batch_s = self.started - asked
            yield batch
            self.rows += len(batch.target)
            if time.perf_counter() >= self.started + self.seconds:
                return


class Bench:
    """One table and one process group, from which loops are made."""

    def __init__(self, table: str) -> None:
        self.group = _group()
        self.delta = DeltaTable(table)
        self.split = self.new_split("train")
        self.validation = EpochOrder(self.new_split("validation"), seed=0, batch_rows=1 << 15, lanes=8, shuffle_rows=0)
        mask = log_mask(bench_narrow)
        self.prepare = Prepare(mask, fit_statistics(self.validation.split, mask))
        self.first_batch_s: list[float] = []
        self.folder = Path(tempfile.mkdtemp(prefix="forecache-checkpoints-"))

    def new_split(self, name: str, *, cache_bytes: int = 0) -> Split:
        return Split(self.delta, name, features=NAMES, label=LABEL, cache_bytes=cache_bytes)

    def order(self, split: Split) -> EpochOrder:
        batch_rows = bench_narrow.training.batch_size
        return EpochOrder(split, seed=7, batch_rows=batch_rows, lanes=8, shuffle_rows=1 << 18)

    def rows_per_s(self, make_reader: Callable[[EpochOrder], Any], seconds: float, *, checkpoint_steps: int) -> float:
        """Samples per second of the loop's epoch, cut off after some seconds; waits for checkpoints to be on disk."""
        torch.manual_seed(7)
        order = self.order(self.split)
        session = Session(
            self.group,
            bench_narrow.training,
            prepare=self.prepare,
            objective=Objective(bench_narrow),
            train=order,
            validation=self.validation,
            checkpoints=Checkpoints(Folder(self.folder), self.group, inputs="bench", keep=2),
            checkpoint_steps=checkpoint_steps,
            report=lambda event, **values: None,
            beat=lambda step: None,
        )
        session.reader.close()
        timed = Timed(make_reader(order), seconds)
        session.reader = timed
        Loop(session, bench_narrow.model.build(len(NAMES))).train_epoch()
        session.checkpoints.wait()
        took = time.perf_counter() - timed.started
        if isinstance(timed.reader, Reader):
            self.first_batch_s.append(timed.first_batch_s)
        if hasattr(timed.reader, "close"):
            timed.reader.close()
        return timed.rows / took


def _group() -> Group:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    return Group("cpu")


def _stream(order: EpochOrder) -> Reader:
    return Reader(order, rank=0, world_size=1)


def reading(bench: Bench, seconds: float, repeats: int) -> dict[str, Any]:
    """Samples per second while training, by where the rows come from."""
    started = time.perf_counter()
    rows = np.concatenate([part for chunk in bench.split.chunks for part in bench.split.read(chunk)])
    features, target = torch.from_numpy(rows[:, :-1].copy()), torch.from_numpy(rows[:, -1:].copy())
    load_s = time.perf_counter() - started
    frame = pd.DataFrame(rows, columns=[*NAMES, LABEL])
    batch_rows = bench_narrow.training.batch_size
    frame_rows, matrix_rows = FrameRows(frame, LABEL), MatrixRows(frame, LABEL)
    variants: dict[str, Callable[[EpochOrder], Any]] = {
        "memory": lambda order: MemoryReader(order, features, target),
        "delta": _stream,
        "dataloader_pandas": lambda _: LoaderReader(frame_rows, batch_rows=batch_rows, num_workers=0),
        "dataloader_pandas_2_workers": lambda _: LoaderReader(frame_rows, batch_rows=batch_rows, num_workers=2),
        "dataloader_matrix": lambda _: LoaderReader(matrix_rows, batch_rows=batch_rows, num_workers=0),
    }
    found = _take_turns(bench, {name: (make, _NEVER) for name, make in variants.items()}, seconds, repeats)
    return {
        "rows": len(rows),
        "batch_rows": batch_rows,
        "threads": torch.get_num_threads(),
        "rows_per_s": found,
        "delta_first_batch_s": statistics.median(bench.first_batch_s),
        "memory_load_s": load_s,
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
            speed = bench.rows_per_s(make, min(seconds, 1.0) if repeat < 0 else seconds, checkpoint_steps=steps)
            if repeat >= 0:  # the first round only warms up
                found[name].append(speed)
                say(f"{name}: {speed:,.0f} samples/s")
    say(", ".join(f"{name} {statistics.median(speeds):,.0f}" for name, speeds in found.items()))
    return found


def main() -> None:
    section, table, seconds, repeats = sys.argv[1:]
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
