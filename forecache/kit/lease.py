"""Leases: what one process of all machines does at a time, such as publishing a pipeline.

A lease is a small object that is created or replaced by compare-and-swap, so that one of several contenders wins. Its
holder renews it. A contender takes it over if it sees no renewal for `TERM_S` seconds of its own clock, and at once if
the holder was a process of the same machine that has ended. Clocks of two machines are never compared: they only have
to run equally fast, to within a tenth.

The holder counts its term from the beginning of its last renewal that succeeded, and stops `MARGIN_S` earlier. A
process that stood still for longer finds that out by `Lease.check`, before it commits anything. Where what it changes
can refuse it, it names its fencing token there (`forecache.kit.delta.commit.Target.fence`).
"""

import json
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from typing import Any

from forecache.base.errors import ConflictError, ForecacheError
from forecache.base.folders import Folder
from forecache.kit.process.identity import ProcessIdentity, identify_process
from forecache.kit.process.periodic import PeriodicThread
from forecache.kit.process.wakes import LEASE

TERM_S = 30.0
MARGIN_S = 5.0
_POLL_S = 0.5
_FOLDER = ".leases"


class LeaseLostError(ConflictError):
    """The term of a lease is over, or another process has taken it over."""


@dataclass(frozen=True)
class Holder(ProcessIdentity):
    """The process that holds a lease, or held it last."""

    name: str
    action: str
    run_id: str  # the orchestrator's run id, "" without one
    since: float  # when the process got the lease, in seconds since 1970 by its clock
    token: int = 0
    renewals: int = 0
    released: bool = False
    mark: str = ""  # of this holding, different from that of any other one

    def __str__(self) -> str:
        run = f", run {self.run_id}" if self.run_id else ""
        since = datetime.fromtimestamp(self.since, timezone.utc)
        return f"process {self.pid} on {self.host} ({self.action}{run}, since {since:%Y-%m-%d %H:%M:%S}Z)"


class Lease:
    """A lease that this process holds, renewed by a thread.

    Without a folder it stands for the lock of a machine whose lake no other machine shares: `token` is 0, and it is
    never lost.
    """

    def __init__(self, holder: Holder, folder: Folder | None = None) -> None:
        self._folder, self._holder = folder, holder
        self._tag: Any = None
        self._renewing = threading.Lock()
        self._valid_until = 0.0
        self._lost = ""  # why
        self._others: Sequence[Lease] = ()

    @property
    def name(self) -> str:
        return self._holder.name

    @property
    def token(self) -> int:
        """The fencing token: higher than that of every earlier holder; 0 without a folder."""
        return self._holder.token if self._folder is not None else 0

    @property
    def is_taken_over(self) -> bool:
        """True once another process has it; a term that only ended may be renewed.

        For work that does no harm meanwhile, and is not to end because an object store does not answer for a while.
        """
        return bool(self._lost) or any(each.is_taken_over for each in self._others)

    def depend_on(self, others: "Sequence[Lease]") -> None:
        """Count as lost from now on once one of the others is, for a change that all of them protect."""
        self._others = others

    def check(self) -> None:
        """Raise LeaseLostError if the term may be over, or another process has taken the lease over; reads nothing."""
        if self._folder is None:
            return
        lost = self._lost or ("it was released" if self._holder.released else "")
        if not lost and _now() > self._valid_until:
            lost = "its term ended without a renewal: this process stood still, or could not reach the storage"
        if lost:
            raise LeaseLostError(
                f"The lease {self.name!r} in {self._folder} was lost: {lost}.",
                remedy="Nothing was changed after that. Run again.",
            )
        for each in self._others:
            each.check()

    def confirm(self) -> None:
        """Renew the lease now; LeaseLostError if it was lost. For an act that nothing can refuse afterwards.

        A term that ended is renewed, too, unless another process has the lease.
        """
        if self._folder is None:
            return
        try:
            self.renew()
        except (ForecacheError, OSError) as error:
            cause = error.message if isinstance(error, ForecacheError) else f"{error}."
            raise LeaseLostError(
                f"The lease {self.name!r} in {self._folder} could not be renewed: {cause}", remedy="Run again."
            ) from error
        self.check()

    def ensure(self) -> None:
        """Renew a term that has ended, as while this machine slept; LeaseLostError if another process has the lease."""
        for each in (*self._others, self):
            try:
                each.check()
            except LeaseLostError:
                each.confirm()

    def renew(self) -> None:
        with self._renewing:
            if not self._lost and not self._holder.released and not self._put():
                self._read_after_refusal()

    def try_acquire(self, other: Holder | None, tag: Any) -> bool:
        """Take a lease that is free or was the other holder's; False if another process was faster."""
        since = time.time()
        # By the clock, so that it is higher than those before, should somebody have deleted the lease.
        token = int(since) if other is None else other.token + 1
        self._holder = replace(self._holder, token=token, since=since, mark=secrets.token_hex(8))
        self._tag = tag
        return self._put() or (self._is_mine(self.read()) and self._put())

    def release(self) -> None:
        """Mark the lease as released, if it is still held; else it expires."""
        if self._folder is None:
            return
        with self._renewing:
            if not self._lost:
                with suppress(ForecacheError, OSError):
                    if not self._put(released=True) and self._is_mine(self.read()):
                        self._put(released=True)
                self._holder = replace(self._holder, released=True)

    def read(self) -> tuple[Holder, Any] | None:
        assert self._folder is not None
        found = self._folder.read(_file_name(self.name))
        return None if found is None else (_parse(found[0], f"{self._folder}/{_file_name(self.name)}"), found[1])

    def _put(self, *, released: bool = False) -> bool:
        """Write this process as the holder if the object still has the tag that was seen last."""
        assert self._folder is not None
        began = _now()
        after = replace(self._holder, renewals=self._holder.renewals + 1, released=released)
        tag = self._folder.swap(_file_name(self.name), json.dumps(asdict(after)).encode(), self._tag)
        if tag is None:
            return False
        self._tag, self._holder, self._valid_until = tag, after, began + TERM_S - MARGIN_S
        return True

    def _read_after_refusal(self) -> None:
        found = self.read()
        if not (self._is_mine(found) and self._put()):
            self._lost = "it was removed" if found is None else f"it was taken over by {found[0]}"

    def _is_mine(self, found: tuple[Holder, Any] | None) -> bool:
        """Return whether the object is of a put of this process whose answer was lost; its tag is known then."""
        if found is None or found[0].mark != self._holder.mark:
            return False
        self._holder, self._tag = found[0], found[1]
        return True


def _ignore(_: str) -> None:
    pass


@contextmanager
def hold_lease(
    folder: Folder,
    name: str,
    *,
    action: str,
    run_id: str = "",
    wait_s: float | None = None,
    report: Callable[[str], None] = _ignore,
) -> Iterator[Lease]:
    """Hold the lease `name` of a folder during the block; a thread renews it.

    Args:
        action: What this process does, for others to show.
        wait_s: How long to wait for another holder that renews the lease; None: without a limit. A holder that does
            not renew it is waited for until its term is over.
        report: Called with the holder, as text, if there is one to wait for, and with each that follows it.

    Raises:
        ConflictError: Another process holds the lease, and renewed it after `wait_s`.
    """
    lease = Lease(this_process(name, action, run_id), folder)
    try:
        _acquire(lease, wait_s, report)
    except BaseException:
        lease.release()  # a put whose answer was lost may have taken it
        raise
    try:
        with PeriodicThread(LEASE, lease.renew, close_s=0.0):
            yield lease
    finally:
        lease.release()


@contextmanager
def hold_free_lease(folder: Folder, names: Iterable[str], *, action: str) -> Iterator[Lease]:
    """Hold the first one of some leases that nobody holds during the block; `names` has always one more."""
    lease: Lease | None = None
    try:
        for name in names:
            lease = Lease(this_process(name, action, ""), folder)
            found = lease.read()
            is_free = found is None or found[0].released or found[0].is_dead
            if is_free and lease.try_acquire(*(found or (None, None))):
                break
        assert lease is not None
        with PeriodicThread(LEASE, lease.renew, close_s=0.0):
            yield lease
    finally:
        if lease is not None:
            lease.release()  # also if a put whose answer was lost has taken it


def release_for(holder: Holder, folder: Folder) -> None:
    """Mark the lease of a holder that has not renewed it for a term as released, unless it does now."""
    lease = Lease(this_process(holder.name, holder.action, ""), folder)
    found = lease.read()
    if found is not None and found[0] == holder and lease.try_acquire(*found):
        lease.release()


def _acquire(lease: Lease, wait_s: float | None, report: Callable[[str], None]) -> None:
    began = _now()
    watched: tuple[Any, float] | None = None  # the tag, and since when it was seen
    reported = ""  # mark of the holder
    while True:
        found = lease.read()
        if found is None or found[0].released or found[0].is_dead:
            if lease.try_acquire(*(found or (None, None))):
                return
            continue
        other, tag = found
        if watched is None or watched[0] != tag:
            if watched is not None and wait_s is not None and _now() - began >= wait_s:
                raise ConflictError(f"{lease.name!r} is being held by {other}.", remedy="Wait for it, and run again.")
            if reported != other.mark:
                report(str(other))
                reported = other.mark
            watched = tag, _now()
        elif _now() - watched[1] >= TERM_S and lease.try_acquire(other, tag):
            return
        time.sleep(_POLL_S)


def local_lease(name: str, action: str) -> Lease:
    """The lease of a lock that only processes of this machine contend for; it is never lost."""
    return Lease(this_process(name, action, ""))


def read_leases(folder: Folder, below: str = "", *, is_deep: bool = False) -> list[Holder]:
    """The leases of a folder, held or released, by their names.

    With `below`, those whose names begin with it and a slash; `is_deep`: those of all folders in it, too, whose names
    begin with the folder's.
    """
    found = []
    for name in sorted(folder.names("" if is_deep else f"{_FOLDER}/{below}".rstrip("/"))):
        before, is_lease, own = f"/{name}".partition(f"/{_FOLDER}/")
        if is_lease and own.endswith(".json") and not own.rpartition("/")[2].startswith("."):
            content = folder.read(name)
            if content is not None:
                holder = _parse(content[0], f"{folder}/{name}")
                found.append(replace(holder, name=f"{before}/{holder.name}".lstrip("/")))
    return found


def this_process(name: str, action: str, run_id: str) -> Holder:
    """This process as a holder of the lease `name` from now on."""
    return Holder(**asdict(identify_process()), name=name, action=action, run_id=run_id, since=time.time())


def _file_name(name: str) -> str:
    return f"{_FOLDER}/{name}.json"


def _parse(content: bytes, what: str) -> Holder:
    try:
        return Holder(**json.loads(content))
    except (ValueError, TypeError):
        raise ConflictError(
            f"{what} is not a lease that this version can read.",
            remedy="Make sure that no other version of forecache runs, then delete it.",
        ) from None


def _now() -> float:
    """Seconds by a clock that also runs while the machine sleeps, where there is one."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()
