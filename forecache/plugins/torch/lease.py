"""A lease in a bucket, so that one process of all machines writes a run's checkpoints there.

The lease is a small object that is created or replaced by a conditional put, so that one of several contenders wins.
Its holder renews it. A contender gives up at the first renewal that it sees, and takes the lease over if it sees none
for `EXPIRES_S` seconds of its own clock: clocks of two machines are never compared. The death of a holder on the same
machine is noticed at once. A process whose lease was taken over has to stop without another write.
"""

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from forecache.base.errors import ConflictError
from forecache.base.folders import BucketFolder, LocalFolder, open_folder
from forecache.base.settings import Settings
from forecache.kit.process.periodic import PeriodicThread
from forecache.kit.process.wakes import TRAINING_LEASE
from forecache.models.training import process

LEASE_FILE = "lease.json"
RENEW_S = TRAINING_LEASE.every_s
EXPIRES_S = 60.0
_RELEASED_S = 5.0
_POLL_S = 0.5

Tag = dict[str, Any]


@dataclass(frozen=True)
class Holder:
    """The process that holds a lease.

    Attributes:
        machine: Boot id and process namespace, within which process ids are unique; "" if unknown.
        started: When the process started, in ticks since the boot, because process ids are reused.
        run_id: The orchestrator's run id, "" without one.
        since: When the process got the lease, in seconds since 1970 by its clock.
        renewals: Counts up, so that no two states of the object are equal.
        released: Whether the process has ended the lease and is about to delete the object.
    """

    host: str
    machine: str
    pid: int
    started: str
    run_id: str
    since: float
    renewals: int = 0
    released: bool = False

    def __str__(self) -> str:
        run = f", run {self.run_id}" if self.run_id else ""
        since = datetime.fromtimestamp(self.since, timezone.utc)
        return f"process {self.pid} on {self.host}{run}, since {since:%Y-%m-%d %H:%M:%S}Z"

    @property
    def is_dead(self) -> bool:
        """True if the process ran on this machine and has certainly ended."""
        return self.machine != "" and self.machine == _machine_id() and _start_ticks(self.pid) != self.started


class Lease:
    """A lease that this process holds, renewed by a thread.

    Attributes:
        taken_by: The process that took the lease over; None while this one holds it.
    """

    def __init__(self, folder: BucketFolder, holder: Holder) -> None:
        self._folder, self._holder = folder, holder
        self._tag: Tag | None = None
        self._ended = threading.Event()
        self._renewing = threading.Lock()
        self.taken_by: Holder | None = None

    def acquire(self, report: Callable[[str], None]) -> None:
        """Take the lease as soon as it is free or has expired.

        Args:
            report: Called with a sentence if there is something to wait for.

        Raises:
            ConflictError: Another process holds the lease and renewed it meanwhile.
        """
        watched: Tag | None = None
        watched_since = 0.0
        while True:
            found = self._read()
            if found is None:
                if self._put(None):
                    return
                continue
            other, tag = found
            if tag != watched:
                if watched is not None and not other.released:
                    raise ConflictError(
                        f"The checkpoints in {self._folder} are being written by {other}.",
                        remedy="Wait for it, or stop it, and run again.",
                    )
                watched, watched_since = tag, time.monotonic()
                if not other.released and not other.is_dead:
                    report(f"waiting up to {EXPIRES_S:.0f} s for {other}, which may be lost")
            patience_s = _RELEASED_S if other.released else 0.0 if other.is_dead else EXPIRES_S
            if time.monotonic() - watched_since >= patience_s and self._put(tag):
                return
            time.sleep(_POLL_S)

    def renew(self) -> None:
        """Renew the lease unless it was released or taken over; if that fails, the next try shows who holds it."""
        with self._renewing:
            if not self._ended.is_set() and self.taken_by is None:
                self._renew()

    def release(self) -> None:
        """Delete the lease if it is still held; a conditional put comes first, as no bucket deletes conditionally."""
        from obstore.exceptions import BaseError

        self._ended.set()
        # A renewal in progress changes the tag that the put below has to name.
        if not self._renewing.acquire(timeout=EXPIRES_S) or self.taken_by is not None:
            return
        try:
            if self._put(self._tag, released=True):
                self._folder.delete([LEASE_FILE])
        except (BaseError, OSError):
            return  # the lease will expire

    def _renew(self) -> bool:
        """Renew the lease once; False if another process has it."""
        if self._put(self._tag):
            return True
        found = self._read()
        if found is None:
            return self._put(None) or self._renew()
        other, tag = found
        if (other.machine, other.host, other.pid, other.since) == (
            self._holder.machine,
            self._holder.host,
            self._holder.pid,
            self._holder.since,
        ):
            self._tag = tag  # an earlier put succeeded, but its answer was lost
            return True
        self.taken_by = other
        return False

    def _read(self) -> tuple[Holder, Tag] | None:
        found = self._folder.read(LEASE_FILE)
        if found is None:
            return None
        try:
            holder = Holder(**json.loads(found[0]))
        except (ValueError, TypeError):
            raise ConflictError(
                f"The object {self._folder}/{LEASE_FILE} is not a lease that this version can read.",
                remedy="Make sure that nothing trains with these checkpoints, then delete it.",
            ) from None
        return holder, found[1]

    def _put(self, tag: Tag | None, *, released: bool = False) -> bool:
        """Write this process as the holder if the object still has this tag; None: if there is no object."""
        named = asdict(self._holder)
        renewals = self._holder.renewals + 1
        content = json.dumps({**named, "renewals": renewals, "released": released}).encode()
        written = self._folder.swap(LEASE_FILE, content, tag)
        if written is None:
            return False
        self._tag = written
        self._holder = Holder(**{**named, "renewals": renewals})
        return True


@contextmanager
def hold_lease(folder: BucketFolder, *, run_id: str, report: Callable[[str], None]) -> Iterator[Lease]:
    """Acquire the lease of a bucket's prefix and renew it in a thread until the end of the block.

    Raises:
        ConflictError: Another process holds it; the message says which and where.
    """
    lease = Lease(folder, this_process(run_id))
    lease.acquire(report)
    with PeriodicThread(TRAINING_LEASE, lease.renew, every_s=lambda: RENEW_S, close_s=0.0):
        try:
            yield lease
        finally:
            lease.release()


@contextmanager
def lock_checkpoints(
    settings: Settings, checkpoints: str, *, run_id: str, report: Callable[[str], None]
) -> Iterator[process.RunLock]:
    """Lock a folder or a bucket's prefix of checkpoints; arguments and errors as of `lock_run`."""
    folder = open_folder(checkpoints, settings.storage_options, setting="FORECACHE_TRAINING_CHECKPOINTS")
    if isinstance(folder, BucketFolder):
        with hold_lease(folder, run_id=run_id, report=report) as lease:
            yield process.RunLock(lease=lease)
    elif isinstance(folder, LocalFolder):
        with process.lock_folder(folder.root, "writing checkpoints", wait_s=process.GRACE_S) as descriptor:
            yield process.RunLock((descriptor,))


def this_process(run_id: str) -> Holder:
    """This process as the holder of a lease from now on."""
    pid = os.getpid()
    return Holder(socket.gethostname(), _machine_id(), pid, _start_ticks(pid), run_id, time.time())


def _machine_id() -> str:
    if sys.platform != "linux":
        return ""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {os.readlink('/proc/self/ns/pid')}"


def _start_ticks(pid: int) -> str:
    """When a process of this machine started, in ticks since the boot; "" if it does not exist or is a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    state, *fields = stat.rpartition(")")[2].split()
    return "" if state in "ZX" else fields[18]
