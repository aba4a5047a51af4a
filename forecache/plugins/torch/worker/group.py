"""The process group of a run: gloo on CPUs, gloo and NCCL on GPUs, and the stop flag that all ranks agree on."""

import os
import signal
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import timedelta
from types import FrameType
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from forecache.base.errors import SettingsError

T = TypeVar("T")
_TIMEOUT = timedelta(seconds=180)
_PULSE_S = 30.0
_POLL_S = 0.5
_MOST_CALLS = 16


class WorkerGroup:
    """The process group of the workers, as this rank uses it.

    Raises:
        SettingsError: GPUs are required and this worker has none.

    Attributes:
        rank: 0 to world_size - 1.
        device: The device of the model.
        asked_to_stop: Whether this process got SIGTERM; see `StopPoll`.
    """

    def __init__(self, device: str) -> None:
        self.rank, self.world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        local = int(os.environ["LOCAL_RANK"])
        cuda = device == "cuda" or (device == "auto" and torch.cuda.is_available())
        _require_devices(local, device, cuda)
        self.device = torch.device("cuda", local) if cuda else torch.device("cpu")
        if cuda:
            torch.cuda.set_device(self.device)
        dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=_TIMEOUT)
        self.asked_to_stop = False
        signal.signal(signal.SIGTERM, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.asked_to_stop = True

    def maximum(self, *values: float) -> list[float]:
        """The largest of each value over all ranks, in float64."""
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return [float(value) for value in tensor]

    def sum(self, *values: float) -> list[float]:
        """The sums of values over all ranks, in float64."""
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor)
        return [float(value) for value in tensor]

    def merge(self, values: dict[int, Any]) -> dict[int, Any]:
        """The union of all ranks' dictionaries, in key order."""
        gathered: list[Any] = [None] * self.world_size
        dist.all_gather_object(gathered, values)
        return dict(sorted(item for part in gathered for item in part.items()))

    def copy_from_rank_0(self, tensors: Iterable[torch.Tensor]) -> None:
        """Overwrite tensors with rank 0's."""
        for tensor in tensors:
            dist.broadcast(tensor, src=0)

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value on every rank."""
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def run_on_rank_0(self, work: Callable[[], T]) -> T:
        """Call `work` on rank 0 and return its result on every rank, however long it takes.

        Rank 0 sends the others a message every half minute: a single collective would time out while rank 0 reads a
        large table or hashes a checkpoint.
        """
        if self.rank:
            while not self.broadcast(None):
                pass
            value: T = self.broadcast(None)
            return value
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="first") as pool:
            future = pool.submit(work)
            while True:
                finished = bool(wait([future], timeout=_PULSE_S).done)
                if finished:
                    future.result()
                self.broadcast(finished)
                if finished:
                    return self.broadcast(future.result())

    def close(self) -> None:
        dist.destroy_process_group()

    def end_if_signalled(self) -> None:
        """End this process if it got SIGTERM, and let a later SIGTERM end it at once.

        torchrun's agent sends SIGTERM to its workers when it ends. It then waits for their processes to end, while a
        worker that has returned waits for the agent.
        """
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if self.asked_to_stop:
            signal.raise_signal(signal.SIGTERM)


def _require_devices(local: int, device: str, cuda: bool) -> None:
    """Refuse a worker that would have no GPU of its own."""
    if cuda and not torch.cuda.is_available():
        raise SettingsError(
            f"FORECACHE_DEVICE is {device!r}, and this machine has no GPU that torch can use.",
            remedy="Set cpu or auto, or start on a machine with one.",
        )
    if cuda and local >= torch.cuda.device_count():
        raise SettingsError(
            f"Worker {local + 1} of this node has no GPU: there are {torch.cuda.device_count()}.",
            remedy="Set FORECACHE_TRAINING_WORKERS to the number of GPUs of a node, or FORECACHE_DEVICE to cpu.",
        )


class StopPoll:
    """Agreement of all ranks on whether one of them got SIGTERM, exchanged about twice a second at the same call.

    The slowest rank's time per call decides after how many calls the next check comes: fast steps are not slowed down,
    and each slow step is checked, to save within the grace period of a preemption.
    """

    def __init__(self, group: WorkerGroup) -> None:
        self.group = group
        self._calls, self._interval, self._polled_at = 0, 1, time.monotonic()

    def should_stop(self) -> bool:
        """True if the run is to stop; every rank must call it after each step, or each batch of an evaluation."""
        self._calls += 1
        if self._calls < self._interval:
            return False
        seconds = (time.monotonic() - self._polled_at) / self._calls
        asked, slowest = self.group.maximum(float(self.group.asked_to_stop), seconds)
        self._calls, self._polled_at = 0, time.monotonic()
        self._interval = min(_MOST_CALLS, max(1, int(_POLL_S / max(slowest, 1e-6))))
        return bool(asked)
