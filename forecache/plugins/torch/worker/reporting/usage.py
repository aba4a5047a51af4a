"""Resource usage of a worker: processor time, peak memory, and time spent waiting for data."""

import os
import resource
import sys
import time
from collections.abc import Iterator
from typing import Any

import torch

from forecache.plugins.torch.worker.distributed.group import WorkerGroup
from forecache.plugins.torch.worker.reading.reader import TrainingBatch


class Usage:
    """Measures this process from the object's creation on."""

    def __init__(self) -> None:
        self._started, self._cpu_started = time.perf_counter(), time.process_time()
        self.training_s = self.stall_s = 0.0

    def time_batches(self, batches: Iterator[TrainingBatch]) -> Iterator[TrainingBatch]:
        """The same batches; waiting for a batch counts as `stall_s`, waiting and training together as `training_s`."""
        asked = time.perf_counter()
        for batch in batches:
            ready = time.perf_counter()
            yield batch
            self.stall_s += ready - asked
            self.training_s += time.perf_counter() - asked
            asked = time.perf_counter()

    def summarize(self, group: WorkerGroup) -> dict[str, Any]:
        """Figures over all ranks; every rank must call it at the same point.

        Returns:
            `attempt_s`: wall seconds of this attempt's longest rank. `cpu_share`: processor time over wall time and
            threads. `stall_share`: share of the training steps' time spent waiting for data. `peak_memory_bytes` and
            `peak_device_memory_bytes`: of the rank that used most. `device_memory_bytes`, `machine_memory_bytes`.
        """
        wall, on_gpu = time.perf_counter() - self._started, group.device.type == "cuda"
        unit = 1 if sys.platform == "darwin" else 1024
        mine = {
            "wall": wall,
            "cpu": (time.process_time() - self._cpu_started) / (wall * torch.get_num_threads()),
            "stall": self.stall_s / max(self.training_s, 1e-9),
            "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
            "device_peak": torch.cuda.max_memory_allocated(group.device) if on_gpu else 0,
        }
        ranks = list(group.merge({group.rank: mine}).values())
        device_memory = torch.cuda.get_device_properties(group.device).total_memory if on_gpu else 0
        return {
            "attempt_s": max(rank["wall"] for rank in ranks),
            "cpu_share": sum(rank["cpu"] for rank in ranks) / len(ranks),
            "stall_share": sum(rank["stall"] for rank in ranks) / len(ranks),
            "peak_memory_bytes": max(rank["peak"] for rank in ranks),
            "peak_device_memory_bytes": max(rank["device_peak"] for rank in ranks),
            "device_memory_bytes": device_memory,
            "machine_memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        }
