"""Mutual exclusion of a training run: a file lock on its folder, and a lease on its checkpoints across machines."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from forecache.base.errors import ConflictError
from forecache.base.files import lock
from forecache.base.folders import BucketFolder, LocalFolder, open_folder
from forecache.base.settings import Settings
from forecache.models.training.exclusive.lease import Lease, hold_lease
from forecache.models.training.spec import TrainingSpec

GRACE_S = 35.0
"""Seconds that workers may take to save and exit after a stop signal, or after their launcher was killed."""


@contextmanager
def lock_folder(folder: Path, doing: str, *, wait_s: float = 0.0) -> Iterator[int]:
    """Lock the folder; yields the lock's file descriptor. The lock lasts as long as any process has that open.

    Args:
        doing: Purpose of the lock for the error message, such as "training".
        wait_s: Seconds to wait for another process to exit: workers of a killed launcher save first.

    Raises:
        ConflictError: Another process holds the lock.
    """

    def conflict_error(_: str) -> ConflictError:
        return ConflictError(
            f"Another process is {doing} in {folder}.", remedy="Wait for it, or stop it, and run again."
        )

    with lock(folder / "lock", refused=conflict_error, wait_s=wait_s) as descriptor:
        yield descriptor


@dataclass(frozen=True)
class RunLock:
    """Keeps other processes out of a run.

    Attributes:
        descriptors: File descriptors of the locks, which last as long as any process has them open.
        lease: The lease on checkpoints in a bucket; None for checkpoints in a folder.
    """

    descriptors: tuple[int, ...]
    lease: Lease | None = None

    def stop_if_lost(self, process: "subprocess.Popen[bytes]") -> None:
        """Kill the training at once if its lease was taken over, because it must not save a checkpoint any more.

        Raises:
            ConflictError: The lease was taken over.
        """
        if self.lease is None or self.lease.taken_by is None:
            return
        os.killpg(process.pid, signal.SIGKILL)
        raise ConflictError(
            f"The training was stopped: its lease had expired and was taken over by {self.lease.taken_by}.",
            remedy="The other process continues from the last checkpoint. Check why this machine could not reach it.",
        )


@contextmanager
def lock_run(
    settings: Settings, spec: TrainingSpec, *, run_id: str = "", report: Callable[[str], None]
) -> Iterator[RunLock]:
    """Lock the run of a specification.

    Args:
        run_id: The orchestrator's run id, shown to another process that finds the run locked.
        report: Called with a sentence if there is something to wait for.

    Raises:
        ConflictError: Another process trains in the same folder, or writes the same checkpoints.
        UnavailableError: The checkpoints are in a bucket and `obstore` is not installed.
    """
    with ExitStack() as stack:
        locks = [stack.enter_context(lock_folder(spec.folder, "training", wait_s=GRACE_S))]
        if not spec.checkpoints:
            yield RunLock(tuple(locks))
            return
        folder = open_folder(spec.checkpoints, settings.storage_options, setting="FORECACHE_TRAINING_CHECKPOINTS")
        if isinstance(folder, BucketFolder):
            lease = stack.enter_context(hold_lease(folder, run_id=run_id, report=report))
            yield RunLock(tuple(locks), lease)
        elif isinstance(folder, LocalFolder):
            locks.append(stack.enter_context(lock_folder(folder.root, "writing checkpoints", wait_s=GRACE_S)))
            yield RunLock(tuple(locks))
