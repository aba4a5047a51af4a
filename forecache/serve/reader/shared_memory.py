"""Shared memory of one reader's processes: its state (draining, crashes, readiness), a slot for each worker's counters,
and the history.

All of it is reserved before the first worker starts, in a file that exists in memory only, so that a full disk or
temporary folder can neither keep a reader from starting nor end a worker that counts.
"""

import fcntl
import logging
import mmap
import os
import struct
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

logger = logging.getLogger("forecache.reader")

_HEAD_BYTES = mmap.PAGESIZE
_DRAINING, _CRASHES, _WAS_READY, _BEGAN_NS, _START_NS, _STARTED, _HISTORY_BYTES, _LAST_CRASH = range(8)
_RESERVE_CHUNK_BYTES = 1 << 20
_FLOCK = struct.Struct("hhqqi4x")  # fcntl(2), struct flock on 64-bit Linux: kind, whence, start, length, process


class ReaderSharedMemory:
    """The shared memory of one reader, which each of its processes opens.

    A head of one page is followed by slots of equal size. A worker claims a slot with a lock that lasts until its
    process ends; the worker that replaces it continues its counters. Behind the slots comes the history.
    """

    def __init__(self, path: Path, slot_bytes: int) -> None:
        self.path = path
        self.slot_bytes = slot_bytes
        self._descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._map = mmap.mmap(self._descriptor, os.fstat(self._descriptor).st_size)
        self._head = memoryview(self._map)[:_HEAD_BYTES].cast("q")
        self.num_slots = (len(self._map) - _HEAD_BYTES - self._head[_HISTORY_BYTES]) // slot_bytes
        self._claimed: set[int] = set()
        self._records = False

    @classmethod
    def create(cls, *, num_slots: int, slot_bytes: int, history_bytes: int = 0) -> "ReaderSharedMemory":
        """New shared memory, every page of it reserved."""
        size = _HEAD_BYTES + num_slots * slot_bytes + history_bytes
        if hasattr(os, "memfd_create"):
            # Never closed: the workers open it through this process's descriptors.
            descriptor = os.memfd_create("forecache-reader")
            path = Path(f"/proc/{os.getpid()}/fd/{descriptor}")
        else:
            descriptor, name = tempfile.mkstemp(prefix="forecache-reader-")
            path = Path(name)
        for start in range(0, size, _RESERVE_CHUNK_BYTES):
            os.write(descriptor, bytes(min(_RESERVE_CHUNK_BYTES, size - start)))
        head = bytearray(_HEAD_BYTES)
        cells = memoryview(head).cast("q")  # signed, as a clock may say that it is before 1970
        cells[_STARTED], cells[_BEGAN_NS], cells[_HISTORY_BYTES] = int(time.time()), _process_start_ns(), history_bytes
        os.pwrite(descriptor, head, 0)
        return cls(path, slot_bytes)

    def claim_slot(self) -> memoryview:
        """Claim a slot that no live worker has and return its memory; memory of this process alone if none is free."""
        for index in range(self.num_slots):
            if index not in self._claimed and self._try_lock(index):
                self._claimed.add(index)
                return self.slot(index)
        logger.error("All %d slots for counters are taken; this worker's requests are not counted.", self.num_slots)
        return memoryview(bytearray(self.slot_bytes))

    def slot(self, index: int) -> memoryview:
        start = _HEAD_BYTES + index * self.slot_bytes
        return memoryview(self._map)[start : start + self.slot_bytes]

    @property
    def history(self) -> memoryview:
        return memoryview(self._map)[_HEAD_BYTES + self.num_slots * self.slot_bytes :]

    def try_become_recorder(self) -> bool:
        """Return whether this process writes the history; it takes over the task if no live process has it."""
        self._records = self._records or self._try_lock(self.num_slots)
        return self._records

    def _try_lock(self, index: int) -> bool:
        # The kernel releases the lock when the process ends, however it ends. The lock belongs to the open file: a
        # process's lock would be lost as soon as a copy of any descriptor of this file was closed.
        try:
            if hasattr(fcntl, "F_OFD_SETLK"):
                fcntl.fcntl(self._descriptor, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, index, 1, 0))
            else:
                fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, index)
        except OSError:
            return False
        return True

    def is_taken_by_another(self, index: int) -> bool:
        """Return whether another live process has a slot; if the system cannot tell, whether this one does not."""
        if not hasattr(fcntl, "F_OFD_GETLK"):
            return index not in self._claimed
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, index, 1, 0)
        kind: int = _FLOCK.unpack(fcntl.fcntl(self._descriptor, fcntl.F_OFD_GETLK, asked))[0]
        return kind != fcntl.F_UNLCK

    @property
    def started_at(self) -> int:
        return self._head[_STARTED]

    def is_taken(self, index: int) -> bool:
        return index in self._claimed or self.is_taken_by_another(index)

    @property
    def was_ready(self) -> bool:
        """True once all workers of the reader have been ready since it started."""
        return self._head[_WAS_READY] != 0

    def note_ready(self) -> None:
        self._head[_START_NS] = time.monotonic_ns() - self._head[_BEGAN_NS]
        self._head[_WAS_READY] = 1

    @property
    def start_s(self) -> float:
        """Seconds from the start of the reader's process until all its workers were ready; 0 before."""
        return self._head[_START_NS] / 1e9

    @property
    def is_draining(self) -> bool:
        """True after the reader got a signal to stop: it still answers, but is not ready."""
        return self._head[_DRAINING] != 0

    def start_draining(self) -> None:
        self._head[_DRAINING] = 1

    @property
    def crashes(self) -> int:
        return self._head[_CRASHES]

    def count_crash(self) -> None:
        self._head[_CRASHES] += 1
        self._head[_LAST_CRASH] = int(time.time())

    @property
    def last_crash(self) -> int:
        """Unix time; 0: no worker has ended unexpectedly."""
        return self._head[_LAST_CRASH]

    def remove(self) -> None:
        if self.path.parts[:2] != ("/", "proc"):
            self.path.unlink(missing_ok=True)


NAME_BYTES = 64


class NameTable:
    """Names with a fixed place each, in shared memory; a new one gets the next place. One process writes it."""

    def __init__(self, memory: memoryview, most: int) -> None:
        self._memory, self.most = memory, most

    def __iter__(self) -> Iterator[str]:
        for place in range(self.most):
            name = bytes(self._memory[place * NAME_BYTES : (place + 1) * NAME_BYTES]).rstrip(b"\0").decode()
            if not name:
                return
            yield name

    def find_place(self, name: str) -> int | None:
        return next((place for place, known in enumerate(self) if known == name), None)

    def add(self, names: Iterable[str]) -> None:
        """Give places to new names while places are free."""
        known = set(self)
        for name in names:
            if name not in known:
                with suppress(LookupError):
                    self.assign_place(name)

    def assign_place(self, name: str) -> int:
        """Place of a name, a new one if it has none; raises LookupError if none is free, or the name is too long."""
        place, encoded = self.find_place(name), name.encode()
        if place is None:
            place = sum(1 for _ in self)
            if place == self.most or len(encoded) > NAME_BYTES:
                raise LookupError(f"{name} gets no place among {self.most} names of {NAME_BYTES} bytes.")
            start = place * NAME_BYTES
            self._memory[start : start + len(encoded)] = encoded
        return place


def _process_start_ns() -> int:
    """Start of this process on the clock of `time.monotonic_ns`; the present time if the system does not tell."""
    now = time.monotonic_ns()
    try:
        with open("/proc/self/stat") as stat:
            ticks = int(stat.read().rpartition(")")[2].split()[19])  # proc(5), field 22: starttime, since the boot
    except OSError:
        return now
    age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return now - int(age_s * 1e9)
