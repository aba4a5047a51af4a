"""Be the only one that trains a specification: here by a lock of its folder, elsewhere by one of its checkpoints."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from forecache.errors import ConflictError
from forecache.folders import BucketFolder, LocalFolder, open_folder
from forecache.settings import Settings
from forecache.training.exclusive.lease import Lease, leased
from forecache.training.exclusive.lock import GRACE_S, only_one
from forecache.training.spec import TrainingSpec


@dataclass(frozen=True)
class Hold:
    """What keeps others out of a run.

    Attributes:
        descriptors: Of the locks; they hold as long as any process has them open.
        lease: Of checkpoints in a bucket, None where they lie in a folder.
    """

    descriptors: tuple[int, ...]
    lease: Lease | None = None

    def refuse_lost(self, process: "subprocess.Popen[bytes]") -> None:
        """Kill the training at once where its checkpoints are another's now: it must not save.

        Raises:
            ConflictError: They are.
        """
        if self.lease is None or self.lease.taken_by is None:
            return
        os.killpg(process.pid, signal.SIGKILL)
        raise ConflictError(
            f"The training was stopped: its lease had expired and was taken over by {self.lease.taken_by}.",
            remedy="That one goes on from the last checkpoint. Check why this machine could not reach the checkpoints.",
        )


@contextmanager
def holding(settings: Settings, spec: TrainingSpec, *, run_id: str = "", tell: Callable[[str], None]) -> Iterator[Hold]:
    """Hold the run of a specification.

    Args:
        run_id: The orchestrator's, for whoever finds the run held.
        tell: Called with a sentence where there is something to wait for.

    Raises:
        ConflictError: Another process trains in the same folder, or writes the same checkpoints.
        UnavailableError: The checkpoints are in a bucket and `obstore` is not installed.
    """
    with ExitStack() as stack:
        locks = [stack.enter_context(only_one(spec.folder, "training", wait_s=GRACE_S))]
        if not spec.checkpoints:
            yield Hold(tuple(locks))
            return
        folder = open_folder(spec.checkpoints, settings.storage_options, setting="FORECACHE_TRAINING_CHECKPOINTS")
        if isinstance(folder, BucketFolder):
            lease = stack.enter_context(leased(folder, run_id=run_id, tell=tell))
            yield Hold(tuple(locks), lease)
        elif isinstance(folder, LocalFolder):
            locks.append(stack.enter_context(only_one(folder.root, "writing checkpoints", wait_s=GRACE_S)))
            yield Hold(tuple(locks))
