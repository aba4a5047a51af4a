"""The counters of an environment: a small file that its writer and all readers map, so that reading one costs nothing.

The environment itself is the truth. `SOME` is set before the first row is committed and cleared after the last one is
gone, so that "no rows" is never believed too early; the other cells are set after each commit.
"""

import mmap
import os
from pathlib import Path

import xxhash

from forecache.files import write_durably

(
    MAGIC, BOOT, SOME, ENTRIES, APPLIED, VERIFIED, COMMITS, NEWEST_US, TABLE_VERSION, LOOKED_AT_US, FLOOR,
    CONFIRMED_FROM, CONFIRMED_UNTIL, CONFIRMED_AT,
) = range(14)  # fmt: skip
"""Cells: what the file is, the boot of the machine that wrote it, whether there may be rows, how many there are, the
Delta version that has been applied, the one that has been verified, commits so far, the newest event's time, the newest
Delta version that the tailer knows of, when it last looked, and the position at or below which rows were removed (times
in microseconds of Unix time). Of pending rows, those whose number is above the first and up to the second of the last
three are in the table at the third, a Delta version."""

_MAGIC = 0x31455649_4C434600
_CELLS = 64
NO_CELLS = memoryview(bytes(8 * _CELLS)).cast("q")
"""Of an environment that is not there."""
UNSURE = memoryview(b"".join((1 if cell == SOME else 0).to_bytes(8, "little") for cell in range(_CELLS))).cast("q")
"""Of one whose counters cannot be believed: there may be rows."""


def boot() -> int:
    """A number of the machine's present boot; 0 where the system does not tell."""
    try:
        text = Path("/proc/sys/kernel/random/boot_id").read_bytes()
    except OSError:
        return 0
    return xxhash.xxh3_64_intdigest(text) >> 1


def create_cells(path: Path) -> memoryview:
    """The cells of a file for its writer, marked as of this boot; a missing or foreign file is made anew."""
    cells = _mapped(path, writable=True)
    if cells is None or cells[MAGIC] != _MAGIC:
        content = memoryview(bytearray(8 * _CELLS)).cast("q")
        content[MAGIC], content[SOME], content[APPLIED], content[VERIFIED] = _MAGIC, 1, -1, -1
        content[TABLE_VERSION] = content[FLOOR] = -1
        write_durably(path, bytes(content))
        cells = _mapped(path, writable=True)
        assert cells is not None
    return cells


def read_cells(path: Path) -> memoryview | None:
    """The cells of a file for a reader, None where its writer has not made it yet."""
    cells = _mapped(path, writable=False)
    return None if cells is None or cells[MAGIC] != _MAGIC else cells


def of_this_boot(cells: memoryview) -> bool:
    """Whether the file was written since the machine was started: what a crash of the machine left is not believed."""
    return bool(cells[BOOT] == boot())


def _mapped(path: Path, *, writable: bool) -> memoryview | None:
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
