"""The counters of an environment: a small file that its writer and all readers map, so that reads cost almost nothing.

The environment itself is authoritative. `SOME` is set before the first row is committed and cleared after the last one
is removed, so that readers never miss a row; the other cells are set after each commit.
"""

import mmap
import os
from pathlib import Path

import xxhash

from forecache.base.files import write_durably

(
    MAGIC, BOOT, SOME, ENTRIES, APPLIED, VERIFIED, COMMITS, NEWEST_US, TABLE_VERSION, LOOKED_AT_US, FLOOR,
    CONFIRMED_FROM, CONFIRMED_UNTIL, CONFIRMED_AT,
) = range(14)  # fmt: skip
"""Cells: file type, id of the machine's boot in which it was written, whether there may be rows, number of rows,
applied Delta version, verified Delta version, number of commits, time of the newest event, newest Delta version of the
table, time at which the tailer last read that, and the offset up to which rows were removed (times in microseconds of
Unix time). Pending rows whose number is above CONFIRMED_FROM and at most CONFIRMED_UNTIL are committed at the Delta
version CONFIRMED_AT."""

_MAGIC = 0x31455649_4C434600
_CELLS = 64
NO_CELLS = memoryview(bytes(8 * _CELLS)).cast("q")  # counters of an environment that does not exist
UNSURE = memoryview(b"".join((1 if cell == SOME else 0).to_bytes(8, "little") for cell in range(_CELLS))).cast("q")
"""Counters of an environment whose own cannot be trusted: there may be rows."""


def boot_id() -> int:
    """A number that identifies the machine's present boot; 0 if the system does not tell."""
    try:
        text = Path("/proc/sys/kernel/random/boot_id").read_bytes()
    except OSError:
        return 0
    return xxhash.xxh3_64_intdigest(text) >> 1


def create_cells(path: Path) -> memoryview:
    """The cells of a file for its writer; a missing or foreign file is created again."""
    cells = _map_cells(path, writable=True)
    if cells is None or cells[MAGIC] != _MAGIC:
        content = memoryview(bytearray(8 * _CELLS)).cast("q")
        content[MAGIC], content[SOME], content[APPLIED], content[VERIFIED] = _MAGIC, 1, -1, -1
        content[TABLE_VERSION] = content[FLOOR] = -1
        write_durably(path, bytes(content))
        cells = _map_cells(path, writable=True)
        assert cells is not None
    return cells


def read_cells(path: Path) -> memoryview | None:
    """The cells of a file for a reader, None if its writer has not created it yet."""
    cells = _map_cells(path, writable=False)
    return None if cells is None or cells[MAGIC] != _MAGIC else cells


def is_of_this_boot(cells: memoryview) -> bool:
    """Return whether the file was written since the machine started; an older one may have lost data in a crash."""
    return bool(cells[BOOT] == boot_id())


def _map_cells(path: Path, *, writable: bool) -> memoryview | None:
    try:
        descriptor = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        if os.fstat(descriptor).st_size < 8 * _CELLS:
            return None
        access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
        return memoryview(mmap.mmap(descriptor, 8 * _CELLS, access=access)).cast("q")
    finally:
        os.close(descriptor)
